"""``gmvq study``: make a results file that the docs cite."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

#: name -> what its module in ``studies``, with ``run(argv) -> exit code``, does.
STUDIES = {
    "generation": "samples from the tokens of GM-VQ and of its best rival",
    "bottleneck": "how much of the class of a picture survives the codes",
    "uncertainty": "whether the variance knows where GM-VQ errs, and which images are new",
    "transplant": "codes in a trained autoencoder, beside EMA VQ in the same place",
    "levels": "eight residual levels beside ResidualVQ: the error that every level leaves",
    "codes": "codes by probability, codebooks of other sizes and of 65,536 codes, beside what else one would do",
    "convert": "trained modules of vector-quantize-pytorch beside what they are converted to",
    "plain_conv": "a plain convolutional network, the best of four rates for every method",
    "scales": "a pyramid of scales beside a single scale, at equal rate",
    "ragged": "codes for blocks and positions beside a fixed grid, at equal PSNR",
    "signals": "the figures of two runs on sound and series",
    "gradients": "the error of the gradient estimators against the exact gradient",
    "stage": "the perceptual and adversarial stage against the bound alone",
    "large_pictures": "how long training on photographs of 8 megapixels waits for its data",
}


def run(argv: Sequence[str]) -> int:
    """Make one study; return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: gmvq study NAME [OPTIONS]\n\nstudies:")
        print("\n".join(f"  {name:<15}{summary}" for name, summary in STUDIES.items()))
        return 0 if argv else 2
    name, *rest = argv
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    return importlib.import_module(f"gmvq_bench.studies.{name}").run(rest)
