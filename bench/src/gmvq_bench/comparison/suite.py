"""A suite: which settings, which methods with which grids, which seeds; read from YAML, and cut into single runs.

A run is a JSON-able dictionary that says everything its figures depend on, so two equal runs are one run.
"""

from __future__ import annotations

import difflib
import itertools
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml

from gmvq.cli.config_files import check_config_file
from gmvq.errors import check_choice, check_positive
from gmvq.files import is_name
from gmvq.reading import read_text

Run = dict[str, Any]
#: Raised when a change of the training protocol makes older results incomparable.
PROTOCOL = 1
_LONGEST_NAME = 60
_SUITES = Path(__file__).parent / "suites"
_NOT_OF_A_RUN = ("tuned_as", "tuning_steps", "needs")


@dataclass(frozen=True)
class Setting:
    """What all methods share: data, network, size of the codebook and length of training.

    Args:
        data: path or name of ``gmvq.data.open_images``.
        size, channels: of the images.
        network, downsample, dim: of ``networks.build_pair``.
        codebook_size: K.
        steps, batch_size: of training.
        flip: mirror images while training.
        recipe: ``adam``, or ``published``: AdamW as in the paper's source (``train``).
        tuned_as: name of the setting whose tuned rate and weights are used here; None: tuned on its own.
        tuning_steps: length of the runs that choose from a grid; None: ``steps``.
        needs: what the setting wants beside the data, such as a GPU; in words, for the report.
    """

    data: str
    size: int
    codebook_size: int
    steps: int
    channels: int = 3
    network: str = "tiny"
    downsample: int = 4
    dim: int = 16
    batch_size: int = 64
    flip: bool = True
    recipe: str = "adam"
    tuned_as: str | None = None
    tuning_steps: int | None = None
    needs: str = ""

    def __post_init__(self) -> None:
        for name in ("size", "codebook_size", "steps", "downsample", "dim", "batch_size"):
            check_positive(name, getattr(self, name))
        check_choice("recipe", self.recipe, ("adam", "published"))
        if self.tuning_steps is not None:
            check_positive("tuning_steps", self.tuning_steps)


@dataclass(frozen=True)
class Method:
    """A quantizer with its fixed options and the grid it is tuned over.

    Args:
        quantizer: ``gm-vq`` or a name of ``gmvq_bench.rivals.BASELINES``.
        grid: values to try by name; ``lr`` is the learning rate, any other name an option of the quantizer.
        options: of the quantizer, the same in all runs; parts of GM-VQ as ``{type: Objective, kind: elbo}``.
        loss: ``own``; ``relative``: (MSE + its loss) / MSE, the gradient of a logarithm, which GM-VQ's
            likelihood amounts to; for GM-VQ ``drop-in``: MSE + out.loss, and ``naive``: MSE + out.nats.
        advance: ``False`` never calls ``set_progress``: schedules keep their idle values.
        dim: features of a latent, in place of the setting's: the encoder's last and the decoder's first layer have that
            many channels, and nothing else of the network changes.
        dress: give a rival the start of our layer (``rivals.base.dress``).
        ceiling: has no codes, so it is no rival.
        settings: names of the settings it takes part in; empty: all.
        note: for the report.
    """

    quantizer: str
    grid: dict[str, list[Any]]
    options: dict[str, Any] = field(default_factory=dict)
    loss: str = "own"
    advance: bool = True
    dim: int | None = None
    dress: bool = False
    ceiling: bool = False
    settings: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, ("own", "relative", "drop-in", "naive"))
        if not self.grid.get("lr"):
            raise ValueError("a method's grid needs at least one learning rate, grid: {lr: [0.004]}")
        if self.dim is not None:
            check_positive("dim", self.dim)

    def choices(self) -> list[dict[str, Any]]:
        """Every point of the grid."""
        values = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, one, strict=True)) for one in values]


@dataclass(frozen=True)
class Suite:
    """Settings x methods x seeds.

    Args:
        name, description: for files and the report.
        settings, methods: by name; in YAML ``methods`` may name another suite of the package, whose they are.
        seeds: of the final runs.
        tuning_seed: of the runs that choose from a grid; none of ``seeds``.
        ours: the method that is compared with every other.
    """

    name: str
    description: str
    settings: dict[str, Setting]
    methods: dict[str, Method]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tuning_seed: int = 1000
    ours: str = "gm-vq"

    def __post_init__(self) -> None:
        for name in (self.name, *self.settings, *self.methods):
            # Results are kept under these names; of two of them, with more, a file's name is made.
            if not is_name(name) or len(name) > _LONGEST_NAME:
                raise ValueError(
                    f"suite {self.name!r}: {name!r} cannot name a file; suites, settings and methods have single names "
                    f"of at most {_LONGEST_NAME} characters, without slashes and control characters"
                )
        if not self.settings or not self.methods or not self.seeds:
            raise ValueError(f"suite {self.name}: give at least one setting, one method and one seed")
        if self.tuning_seed in self.seeds:
            raise ValueError(f"suite {self.name}: the tuning seed {self.tuning_seed} is one of the seeds")
        for name, setting in self.settings.items():
            if setting.tuned_as is not None and setting.tuned_as not in self.settings:
                raise ValueError(f"setting {name}: tuned_as names {setting.tuned_as!r}, which is no setting")
        if self.ours not in self.methods:
            raise ValueError(f"suite {self.name}: {self.ours!r} is none of its methods")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seeds": list(self.seeds)}

    def pairs(self) -> list[tuple[str, str]]:
        """(setting, method), as far as the method takes part."""
        return [
            (s, m) for s in self.settings for m, method in self.methods.items()
            if not method.settings or s in method.settings
        ]  # fmt: skip

    def grid_of(self, setting: str, method: str) -> list[Run]:
        """The tuning runs of a method; a single point needs none."""
        choices = self.methods[method].choices()
        tuned = self.settings[setting].tuned_as or setting
        runs = [self.run(tuned, method, choice, self.tuning_seed, "tune") for choice in choices]
        return runs if len(runs) > 1 else []

    def finals(self, setting: str, method: str, choice: dict[str, Any]) -> list[Run]:
        return [self.run(setting, method, choice, seed, "final") for seed in self.seeds]

    def run(self, setting: str, method: str, choice: dict[str, Any], seed: int, phase: str) -> Run:
        """Describe one run."""
        what = self.methods[method]
        own = {name: value for name, value in choice.items() if name != "lr"}
        shared = {k: v for k, v in asdict(self.settings[setting]).items() if k not in _NOT_OF_A_RUN}
        if shared["recipe"] == "adam":
            del shared["recipe"]
        if phase == "tune":
            shared["steps"] = self.settings[setting].tuning_steps or shared["steps"]
        return {
            "setting": setting,
            "method": method,
            "phase": phase,
            **shared,
            **({} if what.dim is None else {"dim": what.dim}),
            "quantizer": what.quantizer,
            "options": {**what.options, **own},
            "loss": what.loss,
            "lr": choice["lr"],
            "seed": seed,
            "protocol": PROTOCOL,
            **({} if what.advance else {"advance": False}),
            **({"dress": True} if what.dress else {}),
        }


def point_of(run: Run, grid: dict[str, list[Any]]) -> dict[str, Any]:
    """The point of a grid that a run is of."""
    return {name: run["lr"] if name == "lr" else run["options"].get(name) for name in grid}


def suite_names() -> list[str]:
    """The suites that come with the package."""
    return sorted(file.stem for file in _SUITES.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """Read a suite by its name or from a YAML file."""
    path = Path(name).expanduser()
    if name in suite_names():
        text = read_text(_SUITES / f"{name}.yaml")
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        check_config_file(path)
        text = read_text(path)
    else:
        near = difflib.get_close_matches(name, suite_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FileNotFoundError(
            f"there is no suite {name!r}{hint} Suites: {', '.join(suite_names())}, or the path of a .yaml file"
        )
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"suite {name}: not YAML: {error}") from error
    return suite_from_dict(data, name)


def suite_from_dict(data: Any, where: str) -> Suite:
    """Build a suite from plain data, as YAML or a results file holds it.

    Raises:
        ValueError: a field is missing, unknown or out of range.
    """
    data = dict(_mapping(data, f"suite {where}"))
    if data.get("methods") in suite_names():
        data["methods"] = yaml.safe_load(read_text(_SUITES / f"{data['methods']}.yaml"))["methods"]
    for part, kind in (("settings", Setting), ("methods", Method)):
        found = _mapping(data.get(part, {}), part)
        data[part] = {name: _build(kind, value, f"{part[:-1]} {name}") for name, value in found.items()}
    return _build(Suite, data, f"suite {where}")


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what}: expected a mapping, got {type(value).__name__}")
    return value


def _build(kind: type, value: Any, what: str) -> Any:
    value = dict(_mapping(value, what))
    known = [f.name for f in fields(kind)]
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{what}: unknown field {name!r}; {hint}")
    for name, hint in get_type_hints(kind).items():
        # What is built already, as the parts of a suite are, is of its type.
        if name in value and not (kind is Suite and name in ("settings", "methods")):
            try:
                value[name] = msgspec.convert(value[name], hint)
            except (msgspec.ValidationError, UnicodeEncodeError) as error:
                raise ValueError(f"{what}: the field {name!r} cannot be used: {error}") from error
    try:
        return kind(**value)
    except TypeError as error:
        missing = str(error).split("missing ")[-1]
        raise ValueError(f"{what}: {missing}") from error
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
