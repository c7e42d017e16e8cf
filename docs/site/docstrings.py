"""Docstrings as the site needs them: formulas in dollars, one entry for each argument, examples as examples."""

from __future__ import annotations

import re
from typing import Any

import griffe

_BLOCK = re.compile(r"(?m)^( *)\.\. math::[ ]?(.*(?:\n\1[ ]+\S.*)*)")
_ROLE = re.compile(r":math:`([^`]+)`")
_SEVERAL = re.compile(r"(?m)^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)")
_EXAMPLE = re.compile(r"(?m)^Example:$")


class Docstrings(griffe.Extension):
    """Rewrites every docstring once it has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = tidy(obj.docstring.value)


def tidy(text: str) -> str:
    """The docstring ``text`` in Markdown, with sections that griffe reads."""
    text = _BLOCK.sub(_formula, text)
    text = _ROLE.sub(r"$\1$", text)
    text = _EXAMPLE.sub("Examples:", text)
    head, section, rest = text.partition("\nArgs:\n")
    if not section:
        head, section, rest = text.partition("\nAttributes:\n")
    return head + section + _SEVERAL.sub(_each, rest)


def _formula(found: re.Match[str]) -> str:
    indent, body = found[1], " ".join(found[2].split())
    if "&" in body or r"\\" in body:
        body = rf"\begin{{split}} {body} \end{{split}}"
    return f"\n{indent}$$ {body} $$\n"


def _each(found: re.Match[str]) -> str:
    """``a, b: text`` as an entry for a and one for b."""
    return "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", "))
