"""Schedules and estimators as short text, ``Cosine(1, 0)``, for config files and the command line.

jsonargparse writes an object of an open set of classes as a nested ``class_path`` and ``init_args``. For a
schedule, of which a quantizer has six, that is five lines where one number would do. So a schedule is written here
as a number (constant) or as the call that would build it, and an estimator as the call that would build it.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from ..functional.estimators import Estimator, GumbelSoftmax, StraightThroughGumbel
from ..functional.schedules import Constant, Cosine, Exponential, Linear, Schedule

SCHEDULES: dict[str, type] = {kind.__name__: kind for kind in (Constant, Linear, Cosine, Exponential)}
ESTIMATORS: dict[str, type] = {kind.__name__: kind for kind in (GumbelSoftmax, StraightThroughGumbel)}


def parse_schedule(value: object) -> Schedule:
    """The schedule that a value stands for.

    That is one itself, a number, a call such as ``"Cosine(1, 0)"``, or a mapping ``{class_path: ..., init_args:
    {...}}``.
    """
    if getattr(value, "key", None) == "value":  # jsonargparse's form of --model.objective.beta.value 3
        value = getattr(value, "val", value)
    return _build(value, SCHEDULES, "a number or a schedule")


def parse_estimator(value: object) -> Estimator:
    """Return the estimator that a name or a call such as ``"GumbelSoftmax(noise=1.0)"`` stands for."""
    return _build(value, ESTIMATORS, "an estimator")


def format_choice(choice: object) -> str | float:
    """Return the text that ``parse_schedule`` or ``parse_estimator`` turns back into ``choice``.

    An estimator is written out in full: a stored config must not change its meaning with our defaults.
    """
    if isinstance(choice, Constant):
        return choice.value
    if not dataclasses.is_dataclass(choice) or isinstance(choice, type):
        raise ValueError(f"expected a schedule or an estimator, got {choice!r}")
    arguments: list[str] = []
    for field in dataclasses.fields(choice):
        value = getattr(choice, field.name)
        required = field.default is dataclasses.MISSING
        if required or value != field.default or type(choice) in ESTIMATORS.values():
            text = str(format_choice(value)) if dataclasses.is_dataclass(value) else repr(value)
            arguments.append(text if required else f"{field.name}={text}")
    return f"{type(choice).__name__}({', '.join(arguments)})"


def register_choices() -> None:
    """Teach jsonargparse the two types; doing it again changes nothing."""
    from jsonargparse.typing import register_type

    register_type(Schedule, format_choice, parse_schedule, type_check=_is_one_of(SCHEDULES))
    register_type(Estimator, format_choice, parse_estimator, type_check=_is_one_of(ESTIMATORS))


def choice_defaults(callable_: Any, prefix: str) -> dict[str, Any]:
    """Return the defaults of a signature's schedules and estimators as text, by dotted name.

    jsonargparse takes default objects that are dataclasses apart and so forgets which class they were of;
    ``parser.set_defaults`` with this puts them right.
    """
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(callable_).parameters.items():
        default = parameter.default
        if type(default) in ESTIMATORS.values():
            found[f"{prefix}.{name}"] = format_choice(default)
        elif dataclasses.is_dataclass(default) and not isinstance(default, type):
            for field in dataclasses.fields(default):
                value = getattr(default, field.name)
                if type(value) in SCHEDULES.values():
                    found[f"{prefix}.{name}.{field.name}"] = str(format_choice(value))
    return found


def as_plain(value: object) -> Any:
    """Return a value with dataclasses as dictionaries, and schedules and estimators as text: fit for JSON."""
    if type(value) in (*SCHEDULES.values(), *ESTIMATORS.values()):
        return format_choice(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _is_one_of(kinds: Mapping[str, type]) -> Any:
    return lambda value, _: type(value) in kinds.values()


def _build(value: object, kinds: Mapping[str, type], expected: str) -> Any:
    """Build the object that ``value`` describes, or is; or raise ValueError saying what could have been written."""
    if type(value) in kinds.values():
        return value
    try:
        if isinstance(value, Mapping):
            name = str(value.get("class_path", "")).rpartition(".")[2]
            return _call(name, (), dict(value.get("init_args") or {}), kinds)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError("that describes none")
        return _evaluate(ast.parse(str(value).strip(), mode="eval").body, kinds)
    except SyntaxError:
        reason = "that does not read as a call"
    except (ValueError, TypeError) as error:
        reason = str(error)
    options = ", ".join(_usage(kind) for kind in kinds.values())
    raise ValueError(f"expected {expected} ({options}), got {value!r}: {reason}")


def _evaluate(node: ast.expr, kinds: Mapping[str, type]) -> Any:
    """Build what a name, a call by name, or a number stands for; nothing else is evaluated."""
    if isinstance(node, ast.Name):
        return _call(node.id, (), {}, kinds)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_argument(item) for item in node.args]
        named = {str(item.arg): _argument(item.value) for item in node.keywords}
        return _call(node.func.id, arguments, named, kinds)
    number = None if isinstance(node, ast.Call) else _argument(node)
    if kinds is SCHEDULES and number is not None:
        return Constant(number)
    raise ValueError("that is not the name of one")


def _argument(node: ast.expr) -> Any:
    """A schedule, a number or None."""
    if isinstance(node, ast.Name | ast.Call):
        return _evaluate(node, SCHEDULES)
    value = ast.literal_eval(node)
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"its arguments are numbers, got {value!r}")
    return None if value is None else float(value)


def _call(name: str, arguments: Sequence[Any], named: Mapping[str, Any], kinds: Mapping[str, type]) -> Any:
    kind = kinds.get(name) or {key.lower(): known for key, known in kinds.items()}.get(name.lower())
    if kind is None:
        near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.5)
        raise ValueError(f"there is no {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    bound = inspect.signature(kind).bind(*arguments, **named)
    hints = get_type_hints(kind)
    for key, value in bound.arguments.items():
        if hints.get(key) is Schedule:
            bound.arguments[key] = parse_schedule(value)
        elif type(value) is int:
            bound.arguments[key] = float(value)
    return kind(*bound.args, **bound.kwargs)


def _usage(kind: type) -> str:
    fields = dataclasses.fields(kind)
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    shown = required or [f"{field.name}=..." for field in fields]
    return f"{kind.__name__}({', '.join(shown)})"
