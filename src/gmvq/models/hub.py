"""Models on the Hugging Face Hub: a name becomes a folder here, and a model becomes a repository with its card."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, one_line, require
from ..files import PathLike, write_text
from ..reading import read_text
from .card import MARKER, public_metadata
from .pretrained import CONFIG, WEIGHTS

CARD = "README.md"
#: What names a model of the package ``gmvq_models`` wherever a model is asked for.
PREFIX = "builtin:"


def resolve(
    path_or_hub_id: PathLike,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    files: Sequence[str] = (WEIGHTS, CONFIG),
) -> Path:
    """Return the local folder: that of ``builtin:NAME``, or of a Hub repository, whose files are downloaded."""
    name = os.fspath(path_or_hub_id)
    if name.startswith(PREFIX):
        return builtin_folder(name)
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"expected the folder that holds {WEIGHTS} and {CONFIG}, got the file {folder}")
    if not is_hub_name(name):
        raise FileNotFoundError(
            f"{name!r} is neither an existing folder nor a Hub repository of the form 'owner/name'; "
            f"pass the folder written by save_pretrained (the current one is {Path.cwd()})"
        )
    hub = require("huggingface_hub", "train")
    with _hub_errors(
        f"{name!r} is not an existing folder, and as a Hub repository it could not be fetched; for a private one pass "
        "token=..., and check",
        FileNotFoundError,
    ):
        options = {"revision": revision, "token": token, "allow_patterns": list(files)}
        return Path(hub.snapshot_download(name, **options))
    raise AssertionError("the context raises")


def save_repository(
    model: Any,
    card: Callable[..., str],
    directory: PathLike,
    repo_id: str | None,
    metadata: dict[str, Any] | None,
    license: str | None,
) -> None:
    """Write what a Hub repository holds: the two files, without local paths in their metadata, and the ``card``."""
    metadata = public_metadata(metadata)
    model.save_pretrained(directory, metadata=metadata)
    text = card(model, repo_id=repo_id, metadata=metadata, license=license)
    write_text(Path(directory) / CARD, text)


def push(
    model: Any,
    card: Callable[..., str],
    repo_id: str,
    metadata: dict[str, Any] | None,
    license: str | None,
    *,
    private: bool,
    token: str | bool | None,
    commit_message: str,
) -> str:
    """Upload what ``save_repository`` writes, the card only where the repository has none of its owner's.

    Returns:
        The commit's address.

    Raises:
        ValueError: ``repo_id`` is no "owner/name".
        OSError: the upload failed.
    """
    if not is_hub_name(repo_id):
        raise ValueError(f"a Hub repository is named 'owner/name', got {repo_id!r}")
    api = require("huggingface_hub", "train").HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_repository(model, card, folder, repo_id, metadata, license)
        what = f"{repo_id!r} could not be pushed; log in with `hf auth login` or pass token=..., and check"
        with _hub_errors(what, OSError):
            api.create_repo(repo_id, private=private, exist_ok=True)
            if _has_a_card_of_its_own(api, repo_id):
                (Path(folder) / CARD).unlink()
            done = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    return str(done)


def _has_a_card_of_its_own(api: Any, repo_id: str) -> bool:
    """Whether the repository's README.md is somebody's own work, which a push must not replace."""
    if not api.file_exists(repo_id, CARD):
        return False
    text = read_text(api.hf_hub_download(repo_id, CARD), "replace")
    return MARKER not in text


def is_hub_name(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


@contextmanager
def _hub_errors(what: str, kind: type[OSError]) -> Iterator[None]:
    """Turn the many errors of huggingface_hub and of the network into one of ``kind`` that says what to check."""
    try:
        yield
    except Exception as error:  # those of its transport derive from nothing in common with its own
        raise kind(f"{what} the name and the network: {one_line(error)}") from error


def builtin_folder(name: str) -> Path:
    """The folder of ``"builtin:NAME"`` where pip put it; nothing is imported, written or downloaded."""
    spec = importlib.util.find_spec("gmvq_models")
    if spec is None:
        raise MissingExtraError(
            f"{name!r} is one of the trained models that are a package of their own, gmvq-models, which is not "
            "installed; in a clone of the repository: pip install ./models"
        )
    places = map(Path, spec.submodule_search_locations or ())
    folders = {file.parent.name: file.parent for place in places for file in place.glob(f"*/{CONFIG}")}
    folder = folders.get(name.removeprefix(PREFIX))
    if folder is None:
        known = ", ".join(f"{PREFIX}{one}" for one in sorted(folders))
        raise FileNotFoundError(f"there is no model {name!r} in the package gmvq-models; it has {known}")
    return folder
