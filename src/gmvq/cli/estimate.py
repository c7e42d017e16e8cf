"""``gmvq estimate``: the size, cost and speed of a configuration on this machine, before it is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .common import add_device, chosen_device, columns, parser_of, switch, tell
from .training_run import prepare

if TYPE_CHECKING:
    from ..training.cost import Cost


def run(argv: Sequence[str]) -> int:
    """Estimate; return the exit code."""
    parser = parser_of(
        "estimate",
        "Build the tokenizer of a configuration and measure it for a few seconds, on noise in place of data.",
    )
    parser.usage = "gmvq estimate CONFIG [--device DEVICE] [--json] [--OPTION VALUE ...]"
    parser.epilog = "Any other option is one of gmvq fit: gmvq estimate configs/photos.yaml --model.dim 8"
    text = "a YAML file of options of gmvq fit, such as a run's config.yaml"
    parser.add_argument("config", metavar="CONFIG", help=text)
    add_device(parser)
    switch(parser, "--json", "print one JSON object in place of lines")
    options, more = parser.parse_known_args(list(argv))
    prepare()
    from ..models.interface import code_sizes
    from ..training.cost import measure_cost
    from .options import build_parser, build_run, parse_options

    device = chosen_device(options.device)
    fit = build_parser()
    config = parse_options(fit, ["--config", options.config, *more])
    module, data = build_run(fit, config)
    shape = (data.batch_size, data.channels, *[data.size] * data.spatial_dims)
    cost = measure_cost(module, shape, device)
    notes = _notes(options.config, str(device), shape, code_sizes(module.model.quantizer), config)
    tell(json.dumps(notes | asdict(cost)) if options.json else columns(_lines(notes, cost)))
    return 0


def _notes(
    config: str, device: str, shape: tuple[int, ...], sizes: tuple[int, ...], options: Any
) -> dict[str, Any]:
    """What the figures belong to."""
    import torch

    from ..functional.autocast import recommended_precision

    steps = options.trainer.max_steps
    return {
        "config": config,
        "device": device,
        "threads": torch.get_num_threads(),
        "precision": recommended_precision(device),
        "batch_shape": list(shape),
        "codebook_size": max(sizes) if len(set(sizes)) == 1 else list(sizes),
        "max_steps": steps if steps > 0 else None,
    }


def _lines(notes: dict[str, Any], cost: Cost) -> list[tuple[str, str]]:
    batch, *item = notes["batch_shape"]
    size = " x ".join(map(str, item))
    parts = ", ".join(f"{name} {_short(number)}" for name, number in cost.parameters.items())
    threads = f", {notes['threads']} threads" if notes["device"] == "cpu" else ""
    state, activations = _bytes(cost.state_bytes), _bytes(cost.activation_bytes)
    lines = [
        ("configuration", notes["config"]),
        ("measured on", f"{notes['device']}{threads}, {notes['precision']}"),
        ("parameters", f"{_short(sum(cost.parameters.values()))} ({parts})"),
        (
            "tokens per image",
            f"{cost.tokens_per_image:,} ({cost.bits_per_image:,.0f} bits at most, for {size})",
        ),
        ("encoding an image", f"{_short(cost.encode_flops)}FLOP"),
        ("decoding an image", f"{_short(cost.decode_flops)}FLOP"),
        ("training step", f"{_short(cost.step_flops)}FLOP, {batch} images"),
        ("training memory", f"{state} of weights, gradients and averages, {activations} of activations"),
        ("encoding speed", f"{cost.encode_tokens_per_second:,.0f} tokens/s"),
        ("decoding speed", f"{cost.decode_tokens_per_second:,.0f} tokens/s"),
        (
            "training speed",
            f"{1 / cost.step_seconds:,.2f} steps/s, {batch / cost.step_seconds:,.0f} images/s",
        ),
    ]
    if notes["max_steps"]:
        minutes = notes["max_steps"] * cost.step_seconds / 60
        text = f"{minutes:,.1f} minutes for {notes['max_steps']:,} steps, without the reading of data"
        lines.append(("training time", text))
    return lines


def _short(number: float) -> str:
    """Three digits and a prefix: 1234567 is 1.23 M."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:.3g} {prefix}"
    return f"{number:.3g} "


def _bytes(number: float) -> str:
    return f"{number / 2**20:,.1f} MiB" if number < 2**30 else f"{number / 2**30:,.1f} GiB"
