"""Codes for blocks and positions beside a code for every position: bits at equal PSNR.

Networks, data and order are those of GM-VQ's tuned run of ``gmvq compare`` at K = 256 on photographs. The fixed grid is
trained at several K, and with half the positions along each axis; ``RaggedGMVQ`` once at each of its K, and measured at
several distortions and budgets, and with one error for all images: the lambda of each image is the largest that leaves
at most so much mean square per feature of its standardised latents.

The bits of an image are log2 K for each code and one for each block of which the tree has to say whether it is divided;
entropy coded, the histograms of codes and, at each scale, of these answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmvq.evaluation import CodebookMetrics
from gmvq.evaluation.batches import image_batches
from gmvq.evaluation.metrics import psnr
from gmvq.models import VQAutoencoder
from gmvq.models.interface import evaluating
from gmvq.prior import fit_prior
from gmvq.quantizers.blocks import grown
from gmvq.quantizers.leaves import divided_blocks, to_leaves

from ..comparison.train import train_model
from ..rate_distortion.points import bits_of_prior
from .records import cells_of, images_of, make_records, study_parser, tuned_run

#: method -> its codebook sizes.
SIZES = {"fixed grid": (64, 128, 256, 512), "ragged": (512,), "fixed grid, 4 x 4": (256,)}
SCALES = 3
SPENDING: tuple[dict[str, Any], ...] = (
    {},
    *({"distortion": value} for value in (0.25, 0.5, 1.0, 2.0, 4.0)),
    *({"budget": value} for value in (40, 24)),
    {"error": 0.1},
)
#: The models whose codes get a prior, and the spending of the codes.
OF_PRIOR: dict[tuple[str, int], dict[str, Any]] = {
    ("fixed grid", 512): {},
    ("ragged", 512): {"distortion": 0.5},
}


def run(argv: Sequence[str]) -> int:
    """Make the study; return the exit code."""
    parser = study_parser("ragged", "Ragged codes beside a fixed grid, at equal PSNR.", list(SIZES), range(2))
    parser.add_argument("--limit", type=int, default=2000, help="images of the test split")
    parser.add_argument("--prior_images", type=int, default=4000, help="images that priors are fitted to")
    parser.add_argument("--prior_steps", type=int, default=300, help="of a prior")
    parser.add_argument("--prior_seeds", type=int, nargs="*", default=[0], help="seeds that get one")
    options = parser.parse_args(list(argv))
    cells = [
        {**cell, "codebook_size": size}
        for cell in cells_of(seed=options.seeds, method=options.methods)
        for size in SIZES[cell["method"]]
    ]
    settings = ("steps", "limit", "prior_images", "prior_steps")
    return make_records("ragged", argv, options, settings, cells, measure)


def described(method: str, codebook_size: int, seed: int, steps: int | None) -> dict[str, Any]:
    """The run of a method: the tuned one with another codebook, grid or quantizer."""
    run: dict[str, Any] = tuned_run("photos32", "photos32-k256", "gm-vq", seed, steps)
    run |= {"codebook_size": codebook_size}
    if method == "ragged":
        return run | {"quantizer": "gm-vq, ragged", "options": {"scales": SCALES}}
    return run | ({} if method == "fixed grid" else {"downsample": 2 * run["downsample"]})


def measure(*, method: str, codebook_size: int, seed: int, options: Any) -> dict[str, Any]:
    """Train one model; its points on the test split, and the bits under a prior."""
    run = described(method, codebook_size, seed, options.steps)
    model = train_model(run)
    spending = SPENDING if method == "ragged" else SPENDING[:1]
    images = list(_batches(run, "test", options.limit))
    points = [{"spending": one, **point(model, images, one)} for one in spending]
    record = {"run": run, "points": points, "bits_prior": None}
    if seed in options.prior_seeds and (method, codebook_size) in OF_PRIOR:
        record["bits_prior"] = _bits_of_prior(model, run, options, OF_PRIOR[method, codebook_size])
    return record


def point(model: VQAutoencoder, images: list[Tensor], spending: dict[str, Any]) -> dict[str, Any]:
    """Codes, bits and errors of images with a spending."""
    scales, size = getattr(model.quantizer, "scales", 1), model.quantizer.codebook_size
    indices = torch.cat([encoded(model, x, spending) for x in images])
    errors = [
        (model.decode(part) - x).square().flatten(1).mean(1).double()
        for part, x in zip(indices.split([len(x) for x in images]), images, strict=True)
    ]
    mse = torch.cat(errors)
    codes, counts = indices.flatten(), torch.full((len(indices),), indices[0].numel())
    answers: list[tuple[int, int]] = []
    if scales > 1:
        codes, counts, _ = to_leaves(indices, scales)
        answers = _answers(indices, scales)
    metrics = CodebookMetrics(size)
    metrics.update(codes)
    entropy = 0.0
    for asked, yes in answers:
        shares = (yes / asked, 1 - yes / asked) if asked else ()
        entropy -= asked * sum(p * math.log2(p) for p in shares if p > 0)
    mean, tree = float(counts.double().mean()), sum(asked for asked, _ in answers) / len(indices)
    return {
        "codes": mean,
        "codes_deviation": float(counts.double().std()),
        "tree_bits": tree,
        "bits": mean * math.log2(size) + tree,
        "bits_entropy": mean * metrics.compute()["code_entropy"] / math.log(2) + entropy / len(indices),
        "mse": float(mse.mean()),
        "psnr": psnr(float(mse.mean())),
        "psnr_per_image": float((-10 * mse.log10()).mean()),
    }


def encoded(model: VQAutoencoder, x: Tensor, spending: dict[str, Any]) -> Tensor:
    """Indices of images (B, C, H, W)."""
    if "error" not in spending:
        return model.encode(x, **spending)
    quantizer: Any = model.quantizer
    with evaluating(model):
        latents = model._latents(x)
        return quantizer.encode(latents, distortion=quantizer.distortion_for(latents, spending["error"]))


def _answers(indices: Tensor, scales: int) -> list[tuple[int, int]]:
    """How many blocks of each scale, coarsest first, are asked for, and how many are divided."""
    found: list[tuple[int, int]] = []
    above: Tensor | None = None
    for blocks in divided_blocks(indices, scales):
        asked = blocks.numel() if above is None else int(grown(above, blocks.shape, 2).sum())
        found.append((asked, int(blocks.sum())))
        above = blocks
    return found


def _batches(run: dict[str, Any], split: str, limit: int) -> Any:
    images = images_of(run, split, augment=split == "train")
    return image_batches(images, batch_size=256, device=torch.device("cpu"), limit=limit)


def _bits_of_prior(
    model: VQAutoencoder, run: dict[str, Any], options: Any, spending: dict[str, Any]
) -> float:
    """Bits of an image of the test split under a causal prior over its codes, those of the tree included."""

    def tokens(split: str, limit: int) -> Tensor:
        return torch.cat([model.encode(x, **spending) for x in _batches(run, split, limit)])

    steps: dict[str, Any] = {"steps": options.prior_steps, "batch_size": 32, "seed": run["seed"]}
    scales = getattr(model.quantizer, "scales", 1)
    train = tokens("train", options.prior_images)
    prior = fit_prior(train, run["codebook_size"], scales=scales, accelerator="cpu", **steps)
    return bits_of_prior(prior, tokens("test", options.limit))
