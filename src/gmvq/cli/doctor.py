"""``gmvq doctor``: versions, devices, extras and one step of the layer, as a text for bug reports without paths."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from importlib import metadata

from ..environment import version_of, versions
from ..reading import read_text
from .common import columns, parser_of

#: Extras of those who work on gmvq itself.
_CONTRIBUTORS = ("dev", "docs", "all")
_PACKAGES = ("numpy", "safetensors", "triton", "lightning", "transformers", "diffusers")


def run(argv: Sequence[str]) -> int:
    """Print the text; return 0, or 1 if the layer does not work here."""
    text = "Print versions, devices, extras and a self-check of a few seconds, to paste into a bug report."
    parser_of("doctor", text).parse_args(list(argv))
    print(columns(_system()))
    devices = _devices()
    print(columns(("device", text) for text in devices.values()))
    print(columns((f"extra {name}", text) for name, text in _extras()))
    problems = 0
    for device in devices:
        started = time.perf_counter()
        problem = check_step(device)
        took = f"{time.perf_counter() - started:.2f} s"
        print(columns([(f"one step on {device}", problem or f"works, {took}")]))
        problems += problem is not None
    return 1 if problems else 0


def check_step(device: str) -> str | None:
    """Train the layer for one step on a device, between two linear maps; None, or what is wrong."""
    import torch

    from ..quantizers import GaussianMixtureVQ

    try:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(256, 8, generator=generator).to(device)
        quantizer = GaussianMixtureVQ(dim=8, codebook_size=32, start_after=0).to(device)
        encoder, decoder = torch.nn.Linear(8, 8).to(device), torch.nn.Linear(8, 8).to(device)
        out = quantizer(encoder(inputs))
        loss = torch.nn.functional.mse_loss(decoder(out.quantized), inputs) + out.loss
        loss.backward()
        parameters = [*encoder.parameters(), *decoder.parameters()]
        gradients = torch.stack([p.grad.norm() for p in parameters if p.grad is not None])
        if not (loss.isfinite() and gradients.isfinite().all() and gradients.max() > 0):
            return f"wrong: loss {loss.item()}, gradients {gradients.tolist()}"
        torch.optim.Adam(parameters, 1e-3).step()
        quantizer.eval()
        with torch.no_grad():
            out = quantizer(encoder(inputs))
            if not torch.equal(quantizer.get_codes_from_indices(out.indices), out.quantized):
                return "wrong: decoded indices differ from the codewords of the eval forward"
    except Exception as error:  # whatever it is, it is what the report is for
        return f"fails: {type(error).__name__}: {without_paths(str(error))}"
    return None


def without_paths(text: str) -> str:
    """One line in which absolute paths are cut to their last part, as a folder can tell the user's name."""
    return re.sub(r"(?:[A-Za-z]:)?(?:[/\\][\w.+@-]+)+[/\\]([\w.+@-]+)", r".../\1", " ".join(text.split()))


def _system() -> list[tuple[str, str]]:
    import torch

    found = versions("gmvq", "gmvq-bench", "python", *_PACKAGES) | {"torch": torch.__version__}
    memory = _memory()
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch"
    return [
        *((name, version) for name, version in sorted(found.items()) if version),
        ("system", system),
        ("processor", f"{processor()}, {cores}"),
        *([("memory", f"{memory / 2**30:.0f} GiB")] if memory else []),
    ]


def _devices() -> dict[str, str]:
    """The devices that torch can use, by the name that it knows them by."""
    import torch

    from ..functional.autocast import has_native_bf16

    fast = "bfloat16 is native" if has_native_bf16("cpu") else "bfloat16 is not native"
    found = {"cpu": f"cpu: {fast}"}
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(number)
        kind = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        capability = f"compute capability {card.major}.{card.minor}"
        memory = f"{card.total_memory / 2**30:.0f} GiB"
        found[f"cuda:{number}"] = f"cuda:{number}: {card.name}, {memory}, {capability}, {kind}"
    if torch.backends.mps.is_available():
        found["mps"] = "mps: the graphics processor of a Mac"
    return found


def _extras() -> Iterator[tuple[str, str]]:
    """Each extra with ``present``, or with what is missing of it."""
    required: dict[str, list[str]] = {}
    try:
        requirements = metadata.requires("gmvq") or []
    except metadata.PackageNotFoundError:
        yield "", "unknown, as gmvq is not installed but runs from its source tree"
        return
    for text in requirements:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", text)
        if extra and extra[1] not in _CONTRIBUTORS:
            required.setdefault(extra[1], []).append(text)
    for extra in sorted(required):
        missing = sorted(set(_missing(extra, required)))
        yield extra, f"absent: {', '.join(missing)}" if missing else "present"


def _missing(extra: str, required: dict[str, list[str]]) -> Iterator[str]:
    for text in required.get(extra, []):
        name = re.match(r"[\w.-]+", text)
        assert name is not None  # a requirement begins with its name
        if name[0] == "gmvq":
            for other in re.findall(r"[\w-]+", text[4:].partition("]")[0]):
                yield from _missing(other, required)
        elif version_of(name[0]) is None:
            yield name[0]


def processor() -> str:
    """The name of the CPU, as the system tells it."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", read_text("/proc/cpuinfo"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory() -> int:
    """Bytes of the machine's memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
