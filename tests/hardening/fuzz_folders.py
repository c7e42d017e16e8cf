"""Folders of other programs, damaged: what ``datasets`` saved, and models of diffusers.

Each is made whole once; then one thing of it is changed: bytes of a file, entries of its JSON, a tensor, the type that
a column says it is, or what lies under the name of a file.
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fuzz_damage import BYTES, PLACES, TENSORS, damage_json, entries, replace, written
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gmvq.data import open_images
from gmvq.models.diffusers_networks import WEIGHTS, read_diffusers

# What datasets saved

_STATE = {
    "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
    "_fingerprint": "0123456789abcdef",
    "_format_columns": None,
    "_format_kwargs": {},
    "_format_type": None,
    "_output_all_columns": False,
    "_split": None,
}
_NAMES = (
    "../data.arrow",
    "/etc/passwd",
    "state.json",
    ".",
    "a\0b",
    "data-00000-of-00001.arrow",
    "http://127.0.0.1:9/x",
)
#: Types that a column may claim, which ``datasets`` would decode from paths and addresses.
_CLAIMS = ("Image", "Audio", "Video", "Pdf", "Value", "ClassLabel", "Sequence", "Array2D", "x", None, 3)


@cache
def _saved(divided: bool) -> dict[str, bytes]:
    """A data set of nine pictures as ``save_to_disk`` writes it, in one split or in two."""
    import datasets
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    pictures = [Image.new("RGB", (9, 9), (7 * i, 2, 3)) for i in range(9)]
    whole: Any = datasets.Dataset.from_dict({"image": pictures, "label": list(range(9))}, features=features)
    whole = datasets.DatasetDict({"train": whole, "test": whole}) if divided else whole
    bars = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        whole.save_to_disk(folder)
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        found = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    if not bars:
        datasets.enable_progress_bars()
    return found


def _claiming(name: str, claim: Any, path: str, codec: str | None) -> bytes:
    """A stream of Arrow whose metadata says of a column that it is something else, with paths in its cells."""
    import pyarrow as pa

    stream, picture = io.BytesIO(), io.BytesIO()
    from PIL import Image

    Image.new("L", (9, 9), 50).save(picture, "PNG")
    image = {"bytes": picture.getvalue(), "path": path}
    label = {"bytes": None, "path": path} if name == "label" else 3
    told = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    told[name] = {"dtype": "int64", "_type": claim}
    told_json = json.dumps({"info": {"features": told}})
    table = pa.table({"image": [image] * 9, "label": [label] * 9}, metadata={"huggingface": told_json})
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(stream, table.schema, options=options) as writer:
        writer.write_table(table)
    return stream.getvalue()


def run_saved(case: tuple[str, Any, Any], folder: Path) -> None:
    """Open a damaged folder that ``datasets`` saved; what is accepted and was not touched has the right pictures."""
    what, which, damage = case
    files = _saved(divided=what in ("split", "divided"))
    source = written(folder, files)
    name = sorted(files)[which % len(files)] if isinstance(which, int) else which
    if what in ("bytes", "divided"):
        (source / name).write_bytes(damage(files[name]))
    elif what == "entries":
        damage_json(source / name, damage)
    elif what == "files":
        state = _STATE | {"_data_files": damage}
        (source / "state.json").write_text(json.dumps(state))
    elif what == "split":
        (source / "dataset_dict.json").write_text(json.dumps({"splits": damage}))
    elif what == "claims":
        (source / "data-00000-of-00001.arrow").write_bytes(_claiming(*damage))
    elif what == "place":
        replace(source / name, damage)
    dataset = open_images(source, size=9, split_fractions=(0, 0), augment=False)
    values = [dataset[item] for item in range(min(len(dataset), 2))]
    assert all(torch.isfinite(value).all() for value in values)
    if what in ("entries", "files", "split", "place"):
        assert len(dataset) % 9 == 0, f"{len(dataset)} pictures in place of 9"
        assert round(float(values[1][0, 0, 0]) * 255) == 7


SAVED = st.one_of(
    st.tuples(st.just("bytes"), st.integers(0, 2), BYTES),
    st.tuples(st.just("divided"), st.integers(0, 6), BYTES),
    st.tuples(st.just("entries"), st.just("state.json"), st.deferred(lambda: entries(_STATE))),
    st.tuples(
        st.just("entries"),
        st.just("dataset_info.json"),
        st.deferred(lambda: entries(json.loads(_saved(False)["dataset_info.json"]))),
    ),
    st.tuples(
        st.just("files"),
        st.none(),
        st.lists(
            st.one_of(st.sampled_from(_NAMES).map(lambda name: {"filename": name}), st.none()), max_size=3
        ),
    ),
    st.tuples(
        st.just("split"),
        st.none(),
        st.lists(st.sampled_from(["train", "test", "../source/train", "/etc", "x", "", None, 3]), max_size=3),
    ),
    st.tuples(
        st.just("claims"),
        st.none(),
        st.tuples(
            st.sampled_from(["image", "label"]),
            st.sampled_from(_CLAIMS),
            st.sampled_from(["http://127.0.0.1:9/x.png", "/dev/zero", "/etc/passwd", "zip://x::y.zip"]),
            st.sampled_from([None, None, None, "zstd"]),
        ),
    ),
    st.tuples(st.just("place"), st.integers(0, 2), PLACES),
)

# Models of diffusers

_SMALL: dict[str, Any] = {
    "block_out_channels": (4, 4),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 2,
    "latent_channels": 3,
}


@cache
def _diffusers(name: str) -> dict[str, bytes]:
    """The two files of a small model."""
    import diffusers

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        getattr(diffusers, name)(**_SMALL).save_pretrained(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@torch.no_grad()
def _pictures(source: Path) -> Any:
    encoder, decoder = read_diffusers(source)
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    return decoder(encoder(images))


@cache
def _whole(name: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return _pictures(written(Path(folder), _diffusers(name)))


def run_diffusers(case: tuple[str, str, Any], folder: Path) -> None:
    """Read a damaged folder of diffusers; what is accepted computes, and the same where the weights are the same."""
    kind, what, damage = case
    files = _diffusers(kind)
    source = written(folder, files)
    config, weights = source / "config.json", source / WEIGHTS
    if what == "entries":
        damage_json(config, damage)
    elif what == "tensors":
        save_file(damage(load_file(weights)), weights)
    elif what == "header":
        weights.write_bytes(damage)
    elif what == "place":
        replace(source / damage[0], damage[1])
    elif what == "another":
        # Files that diffusers itself would prefer, or would run.
        (source / damage).write_text(
            json.dumps({"weight_map": {"encoder.conv_in.weight": "../x.safetensors"}})
        )
    else:
        (source / what).write_bytes(damage(files[what]))
    images = _pictures(source)
    if what in ("another", "place"):
        assert torch.equal(images, _whole(kind)), "accepted, and other images"
    assert images.shape == (2, 3, 8, 12), images.shape


def _header(size: int, end: int, name: str) -> bytes:
    text = json.dumps({name: {"dtype": "F32", "shape": [size], "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 64


def _changes(kind: str) -> dict[str, Any]:
    return json.loads(_diffusers(kind)["config.json"])


DIFFUSERS = st.sampled_from(["AutoencoderKL", "VQModel"]).flatmap(
    lambda kind: st.one_of(
        st.tuples(st.just(kind), st.sampled_from(["config.json", WEIGHTS]), BYTES),
        st.tuples(st.just(kind), st.just("entries"), st.deferred(lambda: entries(_changes(kind)))),
        st.tuples(st.just(kind), st.just("entries"), st.deferred(lambda: entries(_changes(kind)))),
        st.tuples(st.just(kind), st.just("tensors"), TENSORS),
        st.tuples(
            st.just(kind),
            st.just("header"),
            st.builds(
                _header,
                st.sampled_from([0, 16, 2**40, 2**62]),
                st.sampled_from([0, 64, 2**40, 2**63 - 1]),
                st.sampled_from(["encoder.conv_in.bias", "__metadata__", "x"]),
            ),
        ),
        st.tuples(
            st.just(kind), st.just("place"), st.tuples(st.sampled_from(["config.json", WEIGHTS]), PLACES)
        ),
        st.tuples(
            st.just(kind),
            st.just("another"),
            st.sampled_from(
                [
                    f"{WEIGHTS}.index.json",
                    "diffusion_pytorch_model.bin",
                    "model.py",
                    "quantization_config.json",
                ]
            ),
        ),
    )
)
