"""What one visitor of the page looks at, and what every control makes of it: plain functions of a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..evaluation.pictures import Picture, grown, to_picture
from .codes import Alternative, painted, square, tinted
from .picture import MAX_SIDE, Encoded, decode_tokens, downsample_of, encode, figures, token_picture, zoom

if TYPE_CHECKING:
    from ..models import VQAutoencoder


@dataclass(frozen=True)
class View:
    """A picture with its tokens as they are now.

    Attributes:
        encoded: the picture, with the codes that were painted or drawn.
        original: (h, w), the tokens as the encoder gave them.
        marks: (h, w), True at the places that a prior is to draw anew.
    """

    encoded: Encoded
    original: Tensor
    marks: Tensor

    @property
    def changed(self) -> int:
        """Number of tokens that are not the encoder's."""
        return int((self.encoded.indices != self.original).sum())


def description(model: VQAutoencoder) -> str:
    """What the tokenizer is, in one line."""
    step = downsample_of(model)
    size = model.quantizer.codebook_size
    return (
        f"{size:,} codes, one for {step} × {step} pixels. Pictures are scaled down to {MAX_SIDE} pixels, and forgotten "
        "when the page stops."
    )


def opened(model: VQAutoencoder, image: Tensor) -> View:
    """Encode a picture (C, H, W) and look at it."""
    encoded = encode(model, image)
    return View(encoded, encoded.indices, torch.zeros_like(encoded.indices, dtype=torch.bool))


def brushed(view: View, row: int, column: int, code: int | None, brush: int) -> View:
    """Put a code at a square of positions; or, without a code, mark them."""
    if code is None:
        return replace(view, marks=view.marks | square(view.encoded, row, column, brush))
    return replace(view, encoded=painted(view.encoded, row, column, code, brush))


def restored(view: View) -> View:
    """Without changes and without marks."""
    encoded = replace(view.encoded, indices=view.original)
    return View(encoded, view.original, torch.zeros_like(view.marks))


@dataclass(frozen=True)
class Shown:
    """What the page shows of a view.

    Attributes:
        original, reconstruction: the two sides of the slider.
        tokens: in the colours of their codes.
        canvas: the reconstruction with the marked places tinted; it and the tokens are on the scale of ``zoom``.
        table: figures, as Markdown.
    """

    original: Picture
    reconstruction: Picture
    tokens: Picture
    canvas: Picture
    table: str


def show(model: VQAutoencoder, view: View) -> Shown:
    """Decode a view and measure it."""
    decoded = decode_tokens(model, view.encoded)
    picture = to_picture(decoded)
    rows = figures(model, view.encoded, decoded)
    if view.changed:
        rows.append(("tokens changed by hand", f"{view.changed:,}"))
    return Shown(
        original=to_picture(view.encoded.image),
        reconstruction=picture,
        tokens=token_picture(model, view.encoded),
        canvas=grown(tinted(model, picture, view.marks), zoom(view.encoded)),
        table=markdown_table(("", "this picture"), rows),
    )


def alternatives_table(row: int, column: int, found: Sequence[Alternative]) -> str:
    """The codes of a position and their probabilities as Markdown."""
    rows = [(str(entry.code), f"{100 * entry.probability:.1f} %") for entry in found]
    heading = f"**Row {row}, column {column}**"
    return f"{heading}\n\n{markdown_table(('code', 'probability'), rows)}"


def markdown_table(names: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """A table of two columns."""
    lines = [
        f"| {names[0]} | {names[1]} |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    return "\n".join(lines)


def checked_code(model: VQAutoencoder, code: int) -> int:
    """The code itself; ValueError unless the model has it."""
    if not 0 <= code < model.quantizer.codebook_size:
        raise ValueError(f"codes are 0 to {model.quantizer.codebook_size - 1}, got {code}")
    return code
