"""Markdown from results: tables, and the templates of reports and pages with the filters that they use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from gmvq.screen import printable

from .statistics import mean_interval


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines
    )


def render(template: str, **values: Any) -> str:
    """Fill in a template of ``templates``."""
    return _ENVIRONMENT.get_template(template).render(**values)


def aligned(text: str) -> str:
    """A Markdown table, written cell by cell between bars, with aligned columns; nothing where it has no rows."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    if len(rows) < 2:
        return ""
    return table(rows[0], rows[2:] if set("".join(rows[1])) <= {"-"} else rows[1:])


def at(records: Iterable[Any], *path: str | int) -> list[Any]:
    """What each record holds at the end of a path of keys."""
    found = list(records)
    for key in path:
        found = [value[key] for value in found]
    return found


def shared(records: list[dict[str, Any]]) -> set[str]:
    """The keys that all records have."""
    return set.intersection(*map(set, records))


def interval(values: Iterable[float], style: str = ".2f", scale: float = 1.0) -> str:
    """Mean and half of its 95 % t-interval, 1.23 ± 0.45; one value has no interval."""
    mean, half = mean_interval(scale * value for value in values)
    return format(mean, style) + ("" if half is None else f" ± {half:{style.lstrip('+')}}")


def estimate(value: dict[str, float], style: str = ".2f", scale: float = 1.0) -> str:
    """A value with its own interval, 1.23 [1.00, 1.40]."""
    middle, low, high = (format(scale * value[name], style) for name in ("value", "low", "high"))
    return f"{middle} [{low}, {high}]"


def escaped(text: str) -> str:
    """Text of others, such as an error, on one line and without a meaning in Markdown."""
    return " ".join(re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", printable(text)).split())


def label(name: str) -> str:
    """A name in a cell; only what would break the table, or make a link or a tag, is escaped."""
    return re.sub(r"([|*<`\[])", r"\\\1", " ".join(printable(name).split()))


def megabytes(value: float) -> str:
    """Bytes in MB, with three digits or more."""
    return _short(value / 1e6)


def milliseconds(row: dict[str, float] | None) -> str:
    """The median of a timing; a dash without one."""
    return "-" if row is None else _short(row["median_ms"])


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def code(text: str) -> str:
    """A command as Markdown code, which nothing in it ends."""
    return f"`{printable(text).replace('`', chr(39))}`"


_ENVIRONMENT = Environment(
    loader=PackageLoader("gmvq_bench"),
    autoescape=select_autoescape(("html", "html.j2")),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    f.__name__: f for f in (aligned, at, shared, interval, estimate, escaped, label, code)
} | {"fixed": lambda value, style: format(value, style), "mb": megabytes, "ms": milliseconds}
