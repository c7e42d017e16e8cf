"""Trains the models of this folder again by ``gmvq``, and writes their folders and cards into the package.

    python models/make.py [NAME ...]    # default: all, one after the other; make models sets up what it needs first

The configurations are those of ``configs``, for fewer steps where ``STEPS`` says so; no figure on a test split chose
anything. Runs go to ``runs/models/NAME``. One that was stopped goes on; delete it to begin anew.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from gmvq.cli.main import main as gmvq
from gmvq.files import write_text
from gmvq.models.hub import CARD
from gmvq.prior import TokenDataModule
from gmvq.prior.measure import measure_prior
from gmvq.prior.opening import open_prior
from gmvq.reading import read_text
from gmvq.training.checkpoint import open_model

HERE = Path(__file__).resolve().parent
PACKAGE, RUNS = HERE / "src" / "gmvq_models", HERE.parent / "runs" / "models"

#: Licences of the weights, as the Hub spells them.
LICENCES = {"photos": "apache-2.0", "emoji": "ofl-1.1", "speech": "cc-by-sa-3.0", "emoji-prior": "ofl-1.1"}
#: Optimizer steps, where they are not those of the configuration. The prior overfits after 250 (validation tokens).
STEPS = {"emoji-prior": 200}

_NOTO = """
The pictures of Noto Color Emoji (Debian package `fonts-noto-color-emoji`), copyright 2013-2017 Google Inc. and
Arjen Nienhuis, under the SIL Open Font License 1.1, which asks that what is derived from the font stays under it.
So these weights are under it, too; its text is `OFL.txt` of the package `gmvq-models`.
"""
#: What the cards say of the data.
DATA = {
    "photos": """
Thirteen photographs that the wheel of scikit-image brings, in tiles of 32 pixels. As its documentation says: brick,
camera, chelsea, grass, gravel and retina are CC0; hubble_deep_field and rocket are in the public domain; coins and
ihc have no known copyright restrictions; the motorcycles are of the Middlebury 2014 stereo benchmark (Scharstein et
al.); of moon it says nothing. The weights are under Apache-2.0, as `gmvq` is.
""",
    "emoji": _NOTO,
    "speech": """
Telephone prompts for Asterisk, spoken by Allison Smith, with financial contributions by Digium, Inc. (Debian package
`asterisk-core-sounds-en-wav`), under [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/). The weights are
made from them, and are under the same licence. All of it is one voice at 8 kHz.
""",
    "emoji-prior": _NOTO,
}


def make(name: str) -> None:
    """Train one model, and write its folder with its card."""
    if name.endswith("-prior"):
        make_prior(name)
        use = f"gmvq sample builtin:{name} --n 64 --out samples    # its tokenizer is found by itself"
    else:
        make_tokenizer(name)
        use = f"gmvq evaluate builtin:{name}    # the figures above, on the test split"
    again = f"python models/make.py {name}    # trains it, in a clone of gmvq"
    card = PACKAGE / name / CARD
    text = f"\n\n## Data\n{DATA[name]}\n## Again\n\n```sh\n{use}\n{again}\n```\n"
    write_text(card, read_text(card) + text)


def make_tokenizer(name: str) -> None:
    """By the configuration of this name."""
    run("fit", "--config", HERE.parent / "configs" / f"{name}.yaml", *_training(name))
    opened = open_model(RUNS / name / "model")
    opened.model.save_repository(PACKAGE / name, f"builtin:{name}", opened.notes, LICENCES[name])


def make_prior(name: str) -> None:
    """Over the tokens of the model whose name it has before "-prior"; in half precision, and measured so."""
    tokens = RUNS / f"{name}-tokens"
    run("encode", f"builtin:{name.removesuffix('-prior')}", "--out", tokens)
    run("prior", "fit", tokens, "--data.batch_size", 32, "--model.warmup_steps", 20, *_training(name))
    prior, notes = open_prior(RUNS / name / "model")
    figures = measure_prior(prior.half(), TokenDataModule(str(tokens)).rows("test"))
    about = {**notes, "metrics": asdict(figures)}
    prior.save_repository(PACKAGE / name, f"builtin:{name}", about, LICENCES[name])


def _training(name: str) -> list[object]:
    steps = ["--trainer.max_steps", STEPS[name]] if name in STEPS else []
    return [*steps, "--logger", "none", "--ckpt_path", "auto", "--out", RUNS / name]


def run(*arguments: object) -> None:
    """A command of gmvq; the end where it fails."""
    if code := gmvq([str(part) for part in arguments]):
        sys.exit(code)


if __name__ == "__main__":
    for _name in sys.argv[1:] or LICENCES:
        make(_name)
