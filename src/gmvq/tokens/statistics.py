"""Figures of a folder of tokens: rate, perplexity, usage and the most used codes, level by level; and their plot."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from ..evaluation.metrics import CodebookMetrics
from ..evaluation.plots import COLOURS
from ..quantizers.leaves import to_leaves, tree_bits
from ..screen import printable
from .decode import check_split
from .folder import open_run, read_shard
from .manifest import Manifest


@dataclass(frozen=True)
class LevelStatistics:
    """One level of the codes.

    Attributes:
        codebook_size: K.
        codes_used, usage: codes that occur, and their share of K.
        perplexity: exp H of the histogram, 1 to K.
        bits_per_code: H / log 2, what an ideal coder without context needs.
        top_codes: the most used, with the share of positions that they have.
        histogram: positions per code, (K,), int64.
    """

    codebook_size: int
    codes_used: int
    usage: float
    perplexity: float
    bits_per_code: float
    top_codes: list[tuple[int, float]]
    histogram: Tensor


@dataclass(frozen=True)
class TokenStatistics:
    """A folder of tokens in figures.

    Attributes:
        rows: images.
        positions: latent positions per image; each has one code of every level, or of a pyramid one of the finest.
        codes_per_image: codes of all levels, of ragged codes the mean.
        codebook_size: K; the largest where levels differ.
        bits_per_image, bits_per_pixel: sum over levels of P * H / log 2, with P codes of the level and H of its
            histogram; a pixel is one place (H x W), whatever its channels. With ``tree_bits_per_image``.
        fixed_bits_per_image, fixed_bits_per_pixel: sum over levels of P * log2 K, with codes of one length; with the
            same.
        tree_bits_per_image: of ragged codes, one bit for each block of which its tree says whether it is divided.
        mean_log_variance: of log s_c^2(x), where it is stored.
        levels: each level's own figures.
    """

    rows: int
    positions: int
    codes_per_image: float
    codebook_size: int
    bits_per_image: float
    bits_per_pixel: float
    fixed_bits_per_image: float
    fixed_bits_per_pixel: float
    tree_bits_per_image: float
    mean_log_variance: float | None
    levels: list[LevelStatistics]

    def summary(self) -> dict[str, Any]:
        """The figures without the histograms, fit for JSON."""
        whole = asdict(self)
        for level in whole["levels"]:
            del level["histogram"]
        return whole


def statistics(folder: str | os.PathLike[str], *, split: str | None = None, top: int = 10) -> TokenStatistics:
    """Count the codes of a finished run, shard by shard.

    Args:
        folder: where ``encode_dataset`` wrote to.
        split: of this split only.
        top: how many of the most used codes to name.

    Raises:
        FileNotFoundError, ValueError: as for ``verify``; the run has not ended; or there is no row.
    """
    path, manifest = open_run(folder)
    check_split(manifest, split)
    spec = manifest.indices
    levels = [CodebookMetrics(size) for size in spec.sizes]
    rows, log_variance, tree = 0, 0.0, 0
    for record in manifest.shards:
        if split not in (None, record.split):
            continue
        columns = read_shard(path, record, spec)
        values = torch.from_numpy(columns.indices.astype(np.int64))
        if spec.scales > 1:
            grids = values.view(-1, *spec.shape)
            values, tree = to_leaves(grids, spec.scales)[0], tree + int(tree_bits(grids, spec.scales).sum())
        values = values.view(-1, spec.levels)
        for level, metrics in enumerate(levels):
            metrics.update(values[:, level])
        rows += len(columns.ids)
        if columns.log_variance is not None:
            log_variance += float(columns.log_variance.sum(dtype=np.float64))
    if not rows:
        raise ValueError(f"{path} holds no row: no image could be decoded")
    return _figures(manifest, rows, log_variance, tree / rows, levels, top)


def _figures(
    manifest: Manifest, rows: int, log_variance: float, tree: float, metrics: list[CodebookMetrics], top: int
) -> TokenStatistics:
    spec = manifest.indices
    positions = spec.length // spec.levels
    pixels = math.prod(manifest.image_shape[1:])
    levels = [_level(one, top) for one in metrics]
    codes = sum(one.positions for one in metrics)
    unsure = rows * spec.length if spec.scales > 1 else codes
    pairs = zip(metrics, levels, strict=True)
    bits = sum(one.positions * level.bits_per_code for one, level in pairs) / rows + tree
    fixed = sum(one.positions * math.log2(one.mean_size) for one in metrics) / rows + tree
    return TokenStatistics(
        rows=rows,
        positions=positions,
        codes_per_image=codes / rows if spec.scales > 1 else codes // rows,
        codebook_size=spec.codebook_size,
        bits_per_image=bits,
        bits_per_pixel=bits / pixels,
        fixed_bits_per_image=fixed,
        fixed_bits_per_pixel=fixed / pixels,
        tree_bits_per_image=tree,
        mean_log_variance=log_variance / unsure if spec.log_variance else None,
        levels=levels,
    )


def _level(metrics: CodebookMetrics, top: int) -> LevelStatistics:
    values = metrics.compute()
    order = metrics.histogram.argsort(descending=True, stable=True)[:top]
    shares = metrics.histogram.double() / metrics.positions
    return LevelStatistics(
        codebook_size=metrics.histogram.numel(),
        codes_used=int(values["codes_used"]),
        usage=values["usage"],
        perplexity=values["perplexity"],
        bits_per_code=values["code_entropy"] / math.log(2.0),
        top_codes=[(code, float(shares[code])) for code in order.tolist() if shares[code] > 0],
        histogram=metrics.histogram,
    )


def usage_figure(found: TokenStatistics, title: str) -> Any:
    """Plot how often each code is used, most used first, one curve for each level: a matplotlib figure."""
    figure = require("matplotlib.figure", "train").Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, level in enumerate(found.levels):
        counts = level.histogram.sort(descending=True).values.double()
        counts = counts[counts > 0].numpy()
        name = f"level {number + 1}, " if len(found.levels) > 1 else ""
        axes.plot(
            np.arange(1, counts.size + 1),
            counts,
            color=COLOURS[number % len(COLOURS)],
            marker="." if counts.size < 40 else None,
            label=f"{name}perplexity {level.perplexity:,.1f}, {level.codes_used} of {level.codebook_size} used",
        )
    for size in dict.fromkeys(level.codebook_size for level in found.levels):
        mean = found.rows * found.positions / size
        of = f", of {size:,}" if size != found.codebook_size else ""
        text = f"if all were used alike{of}: {mean:,.1f}"
        axes.axhline(mean, color="0.4", linewidth=1.0, linestyle="--", label=text)
    axes.set(xlabel="code, most used first", ylabel="positions with the code", yscale="log")
    axes.set_title(printable(title), parse_math=False)
    axes.set_xlim(0.5, found.codebook_size + 0.5)
    axes.grid(visible=True, alpha=0.2)
    axes.legend(frameon=False, fontsize=9)
    return figure
