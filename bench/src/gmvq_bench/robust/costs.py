"""A guess of how long a setting trains, from multiplications counted by hand and a few measured runs."""

from __future__ import annotations

from .setting import Setting


def seconds(setting: Setting) -> float:
    """Seconds of a training on one core of a usual server."""
    return setting.steps * step_seconds(setting)


def step_seconds(setting: Setting) -> float:
    """Seconds of one step: calls, multiplications of the network, distances to the codes."""
    rows = setting.batch * setting.positions
    network = 3 * setting.batch * _multiplications(setting) / _PER_SECOND
    quantizer = 5e-9 * rows * setting.codebook_size * (1 + setting.dim / 128)
    return _CALLS[setting.network] + network + quantizer


#: Multiplications per second.
_PER_SECOND = 2.5e10
#: Seconds that a step takes however small the network is.
_CALLS = {
    "conv": 5e-3,
    "conv-group": 7e-3,
    "conv-batch": 7e-3,
    "vit": 9e-3,
    "mlp": 6e-3,
    "tokenizer": 18e-3,
    "sound": 10e-3,
}


def _multiplications(setting: Setting) -> float:
    """Of one example, forward through encoder and decoder."""
    width, side, positions = setting.width, setting.size, setting.positions
    values = side**setting.spatial_dims
    if setting.network == "vit":
        return 2 * positions * (16 * width**2 + 4 * width * positions)
    if setting.network == "mlp":
        return (
            2
            * positions
            * (16 * width**2 + 4 * width * (setting.dim + setting.channels * setting.downsample**2))
        )
    if setting.network == "sound":
        return 12 * values * width**2 + 14 * values * width
    shrink = sum(4.0**-stage for stage in range(setting.stages))
    if setting.network == "tokenizer":
        return values * (
            9 * width**2 * (shrink * 2.5 + 9 * 4.0**-setting.stages) + 18 * width * setting.channels
        )
    return values * (
        4 * width**2 * shrink + 9 * width * setting.channels + 18 * width**2 * 4.0**-setting.stages
    )
