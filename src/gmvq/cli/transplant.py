"""``gmvq transplant``: a new codebook in a trained autoencoder, whose encoder stands still and whose decoder adapts."""

from __future__ import annotations

from collections.abc import Sequence

from . import fit
from .common import option, parser_of

#: What it is to ``gmvq fit``: a new codebook between networks of which the encoder stands still.
_OPTIONS = ("--init_codebook", "new", "--freeze", "[encoder]")


def run(argv: Sequence[str]) -> int:
    """Begin the run; return the exit code of ``gmvq fit``."""
    parser = parser_of(
        "transplant",
        "Put a new codebook into a trained autoencoder or tokenizer: the encoder stands still, codes are placed by "
        "k-means and learn, and the decoder is adapted to them. Every option of gmvq fit may follow, and gmvq fit "
        "--ckpt_path goes on with the run. --freeze '[encoder, decoder]' leaves the decoder as it is, too.",
    )
    text = (
        "a run, a model folder, a .ckpt or a Hub name, with codes or without; or a diffusers AutoencoderKL or VQModel, "
        "as its save_pretrained wrote it or by its Hub name"
    )
    parser.add_argument("source", metavar="MODEL", help=text)
    text = "steps before the decoder learns"
    option(parser, "--decoder_after", text, kind=int, default=0, metavar="STEPS")
    option(parser, "--lr", "highest learning rate", kind=float, default=1e-3)
    options, more = parser.parse_known_args(list(argv))
    ours = [f"--model.decoder_after={options.decoder_after}", f"--model.lr={options.lr}"]
    return fit.run(["--init_from", options.source, *_OPTIONS, *ours, *more])
