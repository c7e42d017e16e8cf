"""From a clone to a running tokenizer with the commands of the README alone, as a stranger would go.

    python tests/hardening/first_hour.py [SOURCE] [--most MINUTES] [--screenshot FILE]

Clones SOURCE (default: this repository) into a temporary folder and runs, in the README's own words, what its code
blocks say for the steps below. A step that the README does not have is an error, but for those that may be absent.
``gmvq app`` is opened in Chromium, where playwright drives one, and shown a photograph. Exit status 1 at the first
step that fails, or after more than MINUTES.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What the README says for things that are the reader's own, and what stands for it here.
STAND_INS = {"runs/mine": "runs/demo", "DIR": "my-photographs", "photo.jpg": "my-photographs/astronaut.jpg"}
#: The reader's photographs, which an installed package brings.
_PHOTOGRAPHS = (
    "import pathlib; from PIL import Image; from skimage import data; pathlib.Path('my-photographs').mkdir(); "
    "[Image.fromarray(getattr(data, name)()).save(f'my-photographs/{name}.jpg') "
    "for name in ('astronaut', 'coffee', 'chelsea')]"
)


@dataclass(frozen=True)
class Step:
    """A command of the README, by its first words, and the files that it has to leave."""

    begins: str
    leaves: tuple[str, ...]
    may_be_absent: bool = False


STEPS = (
    Step("make demo", ("runs/demo/report.html", "runs/demo/model/model.safetensors")),
    Step("pip install -c", ()),
    Step("gmvq reconstruct", ("out",)),
    Step("gmvq encode", ("tokens/manifest.json",)),
    Step("gmvq app", (), may_be_absent=True),
)


def commands(readme: str) -> list[str]:
    """The lines of the README's shell blocks, without their comments, one command each."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", readme, re.DOTALL)
    lines = (re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines())
    return [part.strip() for line in lines for part in line.split(";") if part.strip()]


def with_stand_ins(command: str) -> str:
    """The command with what stands for the reader's own files."""
    for word, ours in STAND_INS.items():
        command = re.sub(rf"(?<![\w/.-]){re.escape(word)}(?![\w-])", ours, command)
    return command


def plan(readme: str) -> list[tuple[Step, str | None]]:
    """Each step with its command; None for one that is absent and may be.

    Raises:
        ValueError: a step has no command in the README.
    """
    known = commands(readme)
    found: list[tuple[Step, str | None]] = []
    for step in STEPS:
        command = next((line for line in known if line.startswith(step.begins)), None)
        if command is None and not step.may_be_absent:
            raise ValueError(f"the README has no command that begins with {step.begins!r}")
        found.append((step, command and with_stand_ins(command)))
    return found


def follow(clone: Path, screenshot: Path | None) -> Iterator[str]:
    """Run the steps in a clone; what each did, as it is done.

    Raises:
        RuntimeError: a step failed or left nothing.
    """
    environment = {**os.environ, "PATH": f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    for step, command in plan((clone / "README.md").read_text(encoding="utf-8")):
        if command is None:
            yield f"skipped: {step.begins}, which the README does not have"
            continue
        started = time.monotonic()
        if step.begins == "gmvq app":
            done = _visit(command, clone, environment, screenshot)
        else:
            code = subprocess.run(["bash", "-c", command], cwd=clone, env=environment).returncode
            absent = [name for name in step.leaves if not (clone / name).exists()]
            if code or absent:
                raise RuntimeError(f"{command}: exit status {code}, missing afterwards: {absent}")
            done = "done"
        yield f"{command}: {done}, {time.monotonic() - started:.0f} s"
        if step.begins == "make demo":
            subprocess.run(["python", "-c", _PHOTOGRAPHS], cwd=clone, env=environment, check=True)


def _visit(command: str, clone: Path, environment: dict[str, str], screenshot: Path | None) -> str:
    """Start the page, show it a photograph in Chromium, and stop it."""
    log = clone / "app.log"
    with log.open("w") as out:
        server = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=clone, env=environment, stdout=out)
    try:
        address = _address(server, log)
        with urllib.request.urlopen(address, timeout=60) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{command}: {address} answers with status {answer.status}")
        return _show(address, clone / STAND_INS["photo.jpg"], screenshot)
    finally:
        server.terminate()
        server.wait(timeout=60)


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the command prints."""
    for _ in range(240):
        found = re.search(r"http://[\w.:-]+", log.read_text(encoding="utf-8"))
        if found:
            return found[0]
        if server.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError(f"gmvq app printed no address: {log.read_text(encoding='utf-8')!r}")


def _show(address: str, photograph: Path, screenshot: Path | None) -> str:
    """Show the page a photograph, and wait for what the tokenizer makes of it."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or importlib.util.find_spec("playwright") is None:
        return "answers; not looked at, as there is no Chromium or no playwright"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        before = "[...document.images].filter(image => image.naturalWidth > 64).length"
        shown = page.evaluate(before)
        page.locator("input[type=file]").first.set_input_files(photograph)
        # The photograph itself, and its reconstruction.
        page.wait_for_function(f"{before} >= {shown + 2}", timeout=120_000)
        if screenshot:
            page.screenshot(path=screenshot, full_page=True)
        browser.close()
    return "shows the reconstruction of a photograph"


def main() -> int:
    """Clone, follow, and say how long it took."""
    parser = argparse.ArgumentParser(description="From a clone to a running tokenizer by the README alone.")
    parser.add_argument(
        "source", nargs="?", default=str(ROOT), help="what to clone (default: this repository)"
    )
    parser.add_argument("--most", type=float, metavar="MINUTES", help="fail if all of it takes longer")
    parser.add_argument(
        "--screenshot", type=Path, metavar="FILE", help="a picture of the page in the browser"
    )
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "gmvq")
        subprocess.run(["git", "clone", "--quiet", options.source, str(clone)], check=True)
        try:
            for text in follow(clone, options.screenshot):
                print(text, flush=True)
        except (RuntimeError, ValueError) as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    minutes = (time.monotonic() - started) / 60
    print(f"all of it: {minutes:.1f} minutes")
    return 1 if options.most and minutes > options.most else 0


if __name__ == "__main__":
    sys.exit(main())
