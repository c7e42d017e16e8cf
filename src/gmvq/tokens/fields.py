"""Entries of a JSON object by name and type, with errors that say where, what was expected and what came."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_LARGEST = (1 << 62) - 1
_SHOWN = 80


class Fields:
    """A JSON object from a file that may hold anything; every reader raises ValueError for what is not as expected.

    Args:
        data: what JSON gave.
        where: the file, and the place in it, for errors.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"{where}: expected a JSON object, got {_show(data)}")
        self._data: dict[str, Any] = data
        self.where = where

    def value(self, key: str) -> Any:
        """The entry, whatever it is; it has to be there."""
        if key not in self._data:
            raise ValueError(f"{self.where}: the entry {key!r} is missing")
        return self._data[key]

    def text(self, key: str) -> str:
        """A string that UTF-8 can hold."""
        value = self.value(key)
        if not isinstance(value, str) or not _is_unicode(value):
            raise self._wrong(key, "text", value)
        return value

    def optional_text(self, key: str) -> str | None:
        """A string, or null, or nothing."""
        return None if self._data.get(key) is None else self.text(key)

    def digest(self, key: str) -> str:
        """A SHA-256 in hexadecimal."""
        value = self.text(key)
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise self._wrong(key, "a SHA-256 of 64 hexadecimal digits", value)
        return value

    def number(self, key: str, low: int = 0, high: int = _LARGEST) -> int:
        """A whole number in [low, high]."""
        value = self.value(key)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(key, f"a whole number from {low} to {high}", value)
        return value

    def numbers(self, key: str) -> tuple[int, ...]:
        """One to eight positive whole numbers."""
        value = self.value(key)
        fits = isinstance(value, list) and 0 < len(value) <= 8
        if not fits or any(type(one) is not int or not 1 <= one < 1 << 31 for one in value):
            raise self._wrong(key, "a list of positive whole numbers", value)
        return tuple(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.value(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def table(self, key: str) -> dict[str, Any]:
        """An object, taken as it is."""
        value = self.value(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return value

    def inner(self, key: str) -> Fields:
        """An object to read further."""
        return Fields(self.table(key), f"{self.where}, {key}")

    def tables(self, key: str) -> Iterator[Fields]:
        """A list of objects to read further."""
        value = self.value(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        for number, one in enumerate(value):
            yield Fields(one, f"{self.where}, {key}[{number}]")

    def _wrong(self, key: str, expected: str, value: object) -> ValueError:
        return ValueError(f"{self.where}: expected {key!r} to be {expected}, got {_show(value)}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _show(value: object) -> str:
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a number of too many digits, or too deep a nesting
        text = type(value).__name__
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
