"""``gmvq``: finds the subcommand, imports only what it needs, and turns errors of use into one line."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from ..environment import version_of

#: name -> (module with ``run(argv) -> exit code``, what it does in one line)
COMMANDS = {
    "fit": ("gmvq.cli.fit", "train a tokenizer on images, or go on with a run that was stopped"),
    "evaluate": ("gmvq.cli.evaluate", "measure a trained tokenizer over a set of images"),
    "uncertainty": (
        "gmvq.cli.uncertainty",
        "ask whether a tokenizer knows when it errs, and which images are new to it",
    ),
    "reconstruct": ("gmvq.cli.reconstruct", "encode and decode image files, to see what is lost"),
    "encode": (
        "gmvq.cli.encode",
        "turn a set of images into shards of tokens, or go on with a run that was stopped",
    ),
    "decode": ("gmvq.cli.decode", "turn tokens back into images"),
    "tokens": ("gmvq.cli.tokens", "check a folder of tokens, or count its codes"),
    "prior": ("gmvq.cli.prior", "train a distribution over tokens, to generate from"),
    "sample": ("gmvq.cli.sample", "draw images from a prior over tokens"),
    "rd": ("gmvq.cli.rd", "rate-distortion curves over K and beta, tokens truly coded, beside JPEG and WebP"),
    "inspect": ("gmvq.cli.inspect", "look into a tokenizer and its codebook"),
    "export": ("gmvq.cli.export", "write a tokenizer as ONNX, torch.export or compiled graphs"),
    "push": ("gmvq.cli.push", "publish a tokenizer on the Hugging Face Hub, with a model card"),
    "compare": ("gmvq.cli.compare", "compare quantizers on the same network, tuned alike, with seeds"),
    "bench": ("gmvq.cli.bench", "measure speed and memory of the layer or the training step"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 done in part, 2 misused, 130 interrupted.

    Args:
        argv: the arguments after ``gmvq``; default: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version", "version"):
        print(f"gmvq {version_of('gmvq')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return _fail("gmvq", f"there is no command {name!r}{hint} Commands: {', '.join(COMMANDS)}")
    try:
        return importlib.import_module(COMMANDS[name][0]).run(rest)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print(f"\ngmvq {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `gmvq ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if not _is_misuse(error):
            raise
        if os.environ.get("GMVQ_DEBUG"):
            traceback.print_exc()
        return _fail(f"gmvq {name}", str(error))


def _is_misuse(error: Exception) -> bool:
    """Tell errors that are the user's to mend from ours, which keep their traceback."""
    from argparse import ArgumentError

    lightning_own = type(error).__name__ == "MisconfigurationException"
    return lightning_own or isinstance(error, ValueError | OSError | ImportError | ArgumentError)


def _fail(who: str, message: str) -> int:
    text = ""
    for line in filter(None, map(str.strip, message.splitlines())):
        text += (" " if text.endswith((":", ",", ";")) or not text else "; ") + line
    print(f"{who}: error:{text}", file=sys.stderr)
    return 2


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gmvq COMMAND [OPTIONS]",
            "",
            "Discrete tokens for images and signals by a Gaussian-mixture vector quantizer.",
            "",
            "commands:",
            *lines,
            "",
            "gmvq COMMAND --help explains a command; gmvq --version prints the version.",
            "GMVQ_DEBUG=1 shows the traceback of an error.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
