"""The codes of a position, painting with them, and the codebook to click on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmvq.app import view as views
from gmvq.app.codes import alternatives, code_sheet, painted, position_at, square
from gmvq.app.picture import Encoded, decode_tokens, encode, zoom
from gmvq.models import VQAutoencoder


@pytest.fixture
def encoded(model: VQAutoencoder, picture: Tensor) -> Encoded:
    return encode(model, picture)


def test_a_click_finds_its_position(model: VQAutoencoder, encoded: Encoded) -> None:
    scale = 4 * zoom(encoded)
    assert position_at(model, encoded, 3 * scale, 2 * scale) == (2, 3)
    assert position_at(model, encoded, 4 * scale - 1, 3 * scale - 1) == (2, 3)
    assert position_at(model, encoded, 10**6, -5) == (0, 10)


def test_alternatives_are_the_most_probable_codes(model: VQAutoencoder, encoded: Encoded) -> None:
    found = alternatives(model, encoded, 2, 10)
    logits = model.quantizer.posterior_logits(encoded.latents[2, 10])  # pyright: ignore[reportAttributeAccessIssue]
    best = logits.exp().topk(4)
    assert [one.code for one in found] == best.indices.tolist()
    assert found[0].code == encoded.indices[2, 10]
    assert [one.probability for one in found] == pytest.approx(best.values.tolist(), rel=1e-5)
    assert len({one.picture.tobytes() for one in found}) == 4
    # 4 x 4 pixels at the right edge: columns 2 to 10 and rows 0 to 8 of the positions, cut at 8 rows.
    assert found[0].picture.shape == (32 * 8, 36 * 8, 3)


def test_alternatives_outside_are_refused(model: VQAutoencoder, encoded: Encoded) -> None:
    with pytest.raises(ValueError, match="row 8, column 0 is outside of the picture: rows are 0 to 7"):
        alternatives(model, encoded, 8, 0)


def test_paint_changes_a_square_and_nothing_else(encoded: Encoded) -> None:
    changed = painted(encoded, 0, 4, 7, brush=3).indices
    assert (changed[:2, 3:6] == 7).all()
    changed[:2, 3:6] = encoded.indices[:2, 3:6]
    assert torch.equal(changed, encoded.indices)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_a_square_has_its_side(encoded: Encoded, side: int) -> None:
    assert int(square(encoded, 3, 5, side).sum()) == side**2
    assert square(encoded, 3, 5, side)[3, 5]


def test_the_sheet_shows_every_code_where_it_is_found(model: VQAutoencoder) -> None:
    sheet = code_sheet(model)
    assert sorted(sheet.codes) == list(range(16))
    for place, code in enumerate(sheet.codes):
        x, y = (int((at + 0.5) * sheet.pitch) for at in (place % 4, place // 4))
        assert sheet.code_at(x, y) == code
        constant = model.decode(torch.full((1, 3, 3), code))[0].clamp(0, 1)
        # A line of one pixel stands before the patch.
        expected = (constant[:, 5, 5] * 255).round().byte().numpy()
        assert np.abs(sheet.picture[y, x].astype(int) - expected).max() <= 1
    assert sheet.code_at(10**5, 0) is None


def test_a_view_follows_the_brush_and_comes_back(model: VQAutoencoder, picture: Tensor) -> None:
    view = views.opened(model, picture)
    before = views.show(model, view)
    code = int((view.original[4, 4] + 1) % 16)
    after = views.brushed(view, 4, 4, code, 1)
    assert after.changed == 1
    shown = views.show(model, after)
    assert "tokens changed by hand | 1" in shown.table
    assert not np.array_equal(shown.reconstruction, before.reconstruction)
    assert not np.array_equal(shown.tokens, before.tokens)
    marked = views.brushed(after, 2, 2, None, 2)
    assert marked.marks.sum() == 4
    assert marked.changed == 1
    assert not np.array_equal(views.show(model, marked).canvas, shown.canvas)
    assert views.show(model, views.restored(marked)).table == before.table


def test_codes_that_do_not_exist_are_refused(model: VQAutoencoder) -> None:
    assert views.checked_code(model, 15) == 15
    with pytest.raises(ValueError, match="codes are 0 to 15, got 16"):
        views.checked_code(model, 16)


def test_decoding_is_of_the_painted_tokens(model: VQAutoencoder, encoded: Encoded) -> None:
    changed = painted(encoded, 1, 1, 3, 8)
    expected = model.decode(changed.indices[None])[0].clamp(0, 1)
    assert torch.equal(decode_tokens(model, changed), expected)
