"""Names, labels and messages of others on a reader's screen: nothing in them steers a terminal or a page.

``quiet`` keeps away what libraries tell their own developers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Control characters but line feed and tab, signs that change the direction of text, and bytes that were no UTF-8.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_MARKUP = re.compile(r"([\\`*\[\]<>|#~&])")


def printable(text: str) -> str:
    r"""Text for a terminal or a log: names of files may hold escapes that move the cursor, colour, or turn text around.

    Example:
        >>> printable("a" + chr(27) + "[2Jb")
        'a\\x1b[2Jb'
    """
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def markdown(text: object) -> str:
    """Text on one line, without a meaning in Markdown or HTML.

    Example:
        >>> print(markdown("a|b <b>"))
        a\\|b \\<b\\>
    """
    return _MARKUP.sub(r"\\\1", " ".join(printable(str(text)).split()))


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Ignore warnings, and messages below an error of these loggers; levels and filters are as before afterwards."""
    import logging  # late, as every command imports this file

    levels = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
