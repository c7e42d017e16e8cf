"""Settings drawn at random: network, endings, sizes, data, loss, optimizer, rate; the same on every machine.

Even-numbered settings are for decisions about the layer, odd-numbered ones for reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

#: Network -> seconds that a step takes however small it is.
NETWORKS = {
    **{"conv": 5e-3, "conv-group": 7e-3, "conv-batch": 7e-3},
    **{"vit": 9e-3, "mlp": 6e-3, "tokenizer": 18e-3, "sound": 10e-3},
}
#: In the order in which they apply: a zero-initialised last layer, LayerNorm, tanh, times 100, plus 10.
ENDINGS = ("zero", "layernorm", "tanh", "scale", "shift")
LOSSES = ("mse", "sum", "l1", "perceptual")
IMAGES = {"photos": 3, "fashion_mnist": 1, "emoji": 3, "drawings": 1}
SOUNDS = {"speech": 1, "tones": 1}
#: Each ending, drawn on its own, comes in one setting of so many.
_ENDING_EVERY = 8
#: SGD takes the drawn rate times this: most networks here diverge at 100 times the rate of Adam.
SGD_FACTOR = 10.0
#: The two settings of 5,000 steps: one even, one odd.
_LONG = (10, 11)
#: Seconds: a setting's most is drawn from the first range; nothing takes longer than the second.
_SECONDS = (15.0, 60.0)
_MOST = 75.0
_TRIES = 300
#: Multiplications per second.
_PER_SECOND = 2.5e10
#: Data by whether they are sound, and their weights.
_DATA: dict[bool, tuple[tuple[str, ...], tuple[int, ...]]] = {
    False: (("photos", "fashion_mnist", "emoji", "drawings"), (35, 25, 20, 20)),
    True: (("speech", "tones"), (65, 35)),
}


@dataclass(frozen=True)
class Setting:
    """One network and recipe; the quantizer is what is compared.

    ``endings`` is what the encoder ends in, ``downsample`` pixels (or samples) per latent position along each side,
    ``width`` channels of the network, ``size`` the side of the data in pixels or their length in samples; ``optimizer``
    "adam", "adamw" (weight decay of 0.05 on everything) or "sgd" (momentum of 0.9).
    """

    number: int
    network: str
    endings: tuple[str, ...]
    dim: int
    codebook_size: int
    downsample: int
    width: int
    data: str
    size: int
    channels: int
    batch: int
    steps: int
    lr: float
    optimizer: str
    loss: str

    @property
    def name(self) -> str:
        return f"{self.number:02d}-{self.network}-{self.data}"

    @property
    def parity(self) -> str:
        return "odd" if self.number % 2 else "even"

    @property
    def spatial_dims(self) -> int:
        return 1 if self.network == "sound" else 2

    @property
    def stages(self) -> int:
        """How often the size is halved."""
        return round(math.log2(self.downsample))

    @property
    def positions(self) -> int:
        """Latent positions of an example."""
        return (self.size // self.downsample) ** self.spatial_dims

    @property
    def more_rivals(self) -> bool:
        """Whether further rivals run here: a quarter of the settings."""
        return self.number % 8 in (0, 1)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "endings": list(self.endings)}


def from_dict(values: dict[str, Any]) -> Setting:
    """The inverse of ``Setting.to_dict``."""
    return Setting(**{**values, "endings": tuple(values["endings"])})


def draw(seed: int = 0, count: int = 48) -> list[Setting]:
    """The first ``count`` settings of a seed's design."""
    return [_draw(seed, number) for number in range(count)]


def draw_small() -> list[Setting]:
    """Six even and six odd settings of the design, the cheap ones, every network and every data set among them."""
    settings = draw()
    return sorted([*_spread(settings[::2]), *_spread(settings[1::2])], key=lambda s: s.number)


def _spread(settings: list[Setting]) -> list[Setting]:
    """Cheap settings, each next one the one that shows most that is new: network first, then data."""
    chosen: list[Setting] = []
    while len(chosen) < 6:
        left = [s for s in settings if s not in chosen]
        seen = {value for s in chosen for value in _shown(s)}

        def price(setting: Setting, seen: set[str] = seen) -> float:
            news = _shown(setting) - seen
            return seconds(setting) / 4.0 ** (len(news) + 2 * len(news & {setting.network, setting.data}))

        chosen.append(min(left, key=price))
    return chosen


def _shown(setting: Setting) -> set[str]:
    return {setting.network, setting.data, setting.optimizer, setting.loss, *setting.endings}


def _draw(seed: int, number: int) -> Setting:
    """One setting: batch, width and size are drawn anew until the guess of its time is in a range that slowly widens.

    Where no batch fits, the codebook is made smaller and the training shorter.
    """
    random = Random(f"{seed}-{number}")
    least = 4.0 if number not in _LONG else 20.0
    most = random.uniform(*_SECONDS) if number not in _LONG else _MOST
    setting = _recipe(seed, number, random)
    sizes = (512, 1024, 2048) if setting.network == "sound" else (16, 32, 32, 32)
    while True:
        for _ in range(_TRIES):
            setting = replace(
                setting,
                width=random.choice((32, 48, 64)),
                size=random.choice(sizes),
                batch=random.choice((4, 8, 16, 32, 64, 128)),
            )
            enough = setting.batch * setting.positions >= setting.codebook_size
            if enough and least <= seconds(setting) <= most:
                return setting
            most = min(most * 1.01, _MOST)
        steps = setting.steps if number in _LONG else max(300, setting.steps // 2)
        setting = replace(setting, codebook_size=max(16, setting.codebook_size // 4), steps=steps)


def _card(seed: int, number: int, what: str, values: Sequence[Any]) -> Any:
    """A value from shuffled decks, one deck after another for each parity: all values come equally often in both."""
    deck = list(values)
    Random(f"{seed}-{what}-{number % 2}-{number // 2 // len(deck)}").shuffle(deck)
    return deck[number // 2 % len(deck)]


def _recipe(seed: int, number: int, random: Random) -> Setting:
    """A setting whose size, width, batch are not drawn yet."""
    network = _card(seed, number, "network", tuple(NETWORKS) if number not in _LONG else ("mlp", "vit"))
    data = random.choices(*_DATA[network == "sound"])[0]
    optimizer = random.choices(("adam", "adamw", "sgd"), (6, 2, 0 if network == "conv" else 2))[0]
    return Setting(
        number=number,
        network=network,
        endings=_endings(seed, number, network, optimizer),
        dim=_card(seed, number, "dim", (2, 4, 8, 16, 32, 64, 128, 256)),
        codebook_size=_card(seed, number, "codes", (16, 64, 256, 256, 1024, 1024, 4096)),
        downsample=_card(seed, number, "downsample", (2, 4, 8)),
        width=0,
        data=data,
        size=0,
        channels=({**IMAGES, **SOUNDS})[data],
        batch=0,
        steps=5000 if number in _LONG else random.choice((300, 400, 500, 600, 800, 1000, 1000, 2000)),
        lr=float(f"{math.exp(random.uniform(math.log(3e-4), math.log(4e-3))):.2g}"),
        optimizer=optimizer,
        loss=random.choices(LOSSES, (6, 0, 2, 2) if optimizer == "sgd" else (6, 2, 1, 2))[0],
    )


def _endings(seed: int, number: int, network: str, optimizer: str) -> tuple[str, ...]:
    """Each ending on its own, but for those with which a network does not train even without a quantizer."""
    deck = [True, *[False] * (_ENDING_EVERY - 1)]
    drawn = [ending for ending in ENDINGS if _card(seed, number, ending, deck)]
    if optimizer == "sgd":  # no rate suits latents of zero or far from one
        return tuple(e for e in drawn if e in ("layernorm", "tanh"))
    return tuple(e for e in drawn if (network, e) != ("conv", "shift"))  # a norm is missing: its ReLUs die


def seconds(setting: Setting) -> float:
    """A guess of the seconds of a training on one core of a usual server: calls, products, distances to codes."""
    rows = setting.batch * setting.positions
    network = 3 * setting.batch * _multiplications(setting) / _PER_SECOND
    quantizer = 5e-9 * rows * setting.codebook_size * (1 + setting.dim / 128)
    return setting.steps * (NETWORKS[setting.network] + network + quantizer)


def _multiplications(setting: Setting) -> float:
    """Of one example, forward through encoder and decoder."""
    width, positions, channels = setting.width, setting.positions, setting.channels
    values = setting.size**setting.spatial_dims
    shrink = sum(4.0**-stage for stage in range(setting.stages))
    if setting.network == "vit":
        return 2 * positions * (16 * width**2 + 4 * width * positions)
    if setting.network == "mlp":
        ends = setting.dim + channels * setting.downsample**2
        return 2 * positions * (16 * width**2 + 4 * width * ends)
    if setting.network == "sound":
        return 12 * values * width**2 + 14 * values * width
    if setting.network == "tokenizer":
        return values * (9 * width**2 * (shrink * 2.5 + 9 * 4.0**-setting.stages) + 18 * width * channels)
    return values * (4 * width**2 * shrink + 9 * width * channels + 18 * width**2 * 4.0**-setting.stages)
