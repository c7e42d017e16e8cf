"""Run folders: where a new run goes without touching an old one, and which one ``--ckpt_path last`` means."""

from __future__ import annotations

import re
from pathlib import Path

LAST = Path("checkpoints", "last.ckpt")
ROOT = Path("runs")


def run_name(name: str | None, config_files: list[str], data: str) -> str:
    """Return the name of a run: the one given, else that of its config file, else that of its data."""
    if name:
        if Path(name).name != name:
            raise ValueError(f"--name is the name of a folder in {ROOT}/, got {name!r}; for a path use --out")
        return name
    source = Path(config_files[-1]).stem if config_files else Path(data.removeprefix("hf:")).stem
    return re.sub(r"[^\w.-]+", "_", source) or "run"


def new_run_dir(out: str | None, name: str) -> Path:
    """Return a folder that does not exist or is empty: ``out`` or ``runs/name``, else the first free -2, -3, ..."""
    wanted = Path(out).expanduser() if out else ROOT / name
    folder, number = wanted, 1
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def run_of(out: str | None, name: str) -> Path:
    """Return the folder ``out`` or ``runs/name`` where it holds a run or nothing, else as ``new_run_dir``."""
    wanted = Path(out).expanduser() if out else ROOT / name
    return wanted if (wanted / "config.yaml").is_file() else new_run_dir(out, name)


def checkpoint_to_resume(ckpt_path: str, out: str | None, name: str) -> Path | None:
    """Return the checkpoint file that ``--ckpt_path`` means; None for "auto" where there is none.

    That is a file, a run folder, "last" or "auto" (the last, if there is one): of ``out``, or of the newest of
    runs/name, runs/name-2, ...
    """
    if ckpt_path not in ("last", "auto"):
        path = Path(ckpt_path).expanduser()
        path = path / LAST if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}{_known()}")
        return path
    if out:
        found = [Path(out).expanduser() / LAST]
    else:
        pattern = re.compile(re.escape(name) + r"(-\d+)?")
        folders = ROOT.iterdir() if ROOT.is_dir() else ()
        found = [folder / LAST for folder in folders if pattern.fullmatch(folder.name)]
    found = [path for path in found if path.is_file()]
    if not found and ckpt_path == "auto":
        return None
    if not found:
        place = Path(out) if out else ROOT / name
        raise FileNotFoundError(f"there is no run to resume: {place} has no {LAST}{_known()}")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def run_dir_of(checkpoint: Path) -> Path:
    """Return the run folder that a checkpoint lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == LAST.parent.name else checkpoint.parent


def _known() -> str:
    known = sorted(str(path.parent.parent) for path in ROOT.glob(f"*/{LAST}")) if ROOT.is_dir() else []
    return f"; runs that can be resumed: {', '.join(known)}" if known else f"; no run in {ROOT}/ has one"
