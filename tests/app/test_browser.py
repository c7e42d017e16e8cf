"""Both pages in Chromium, at the widths of a desktop and a phone: upload, slide, click, paint, draw."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("gradio", reason="the page needs the extra 'app'")
pytest.importorskip("playwright", reason="a browser is driven by playwright, of the extra 'dev'")
pytest.importorskip("onnxruntime", reason="the page without a server needs the extra 'export'")

from pages import ORT_FILE, browser, chromium, static_files, visit
from playwright.sync_api import Browser, Page, expect

from gmvq.app.serve import serving
from gmvq.app.web_page import write_web_page
from gmvq.models import VQAutoencoder
from gmvq.prior import TokenPrior

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium; apt-get install chromium"),
]


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def address(model: VQAutoencoder, prior: TokenPrior) -> Iterator[str]:
    with serving(model, prior, title="small") as addresses:
        yield addresses[0]


@pytest.fixture
def file(tmp_path: Path, picture: Tensor) -> Path:
    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "squares.png")
    return tmp_path / "squares.png"


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """$GMVQ_SCREENSHOTS keeps them, as CI does."""
    folder = Path(os.environ.get("GMVQ_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def upload(page: Page, file: Path) -> None:
    page.locator("input[type=file]").set_input_files(file)


def click_at(page: Page, name: str, x: float, y: float) -> None:
    """Click on a picture at shares of its width and height."""
    picture = page.get_by_alt_text(name)
    box = picture.bounding_box()
    assert box is not None
    picture.click(position={"x": x * box["width"], "y": y * box["height"]})


def tab(page: Page, name: str) -> None:
    """Open a tab, which at a phone's width can stand in the menu of those left over."""
    if not page.get_by_role("tab", name=name).is_visible():
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown").get_by_text(name).click()
        return
    page.get_by_role("tab", name=name).click()


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_app(opened: Browser, address: str, file: Path, screenshots: Path, size: str) -> None:
    with visit(opened, address, size) as (page, wrong):
        page.get_by_text("entropy of q(c|x)").click()
        upload(page, file)
        expect(page.get_by_text("11 × 8 = 88")).to_be_visible()
        slide(page)
        page.screenshot(path=screenshots / f"app-picture-{size}.png", full_page=True)
        tab(page, "Codes")
        click_at(page, "Tokens: one colour for each code, near codes alike", 5.5 / 11, 4.5 / 8)
        expect(page.get_by_text("Row 4, column 5")).to_be_visible()
        expect(page.get_by_role("button", name="Thumbnail 4 of 4")).to_be_visible()
        page.screenshot(path=screenshots / f"app-codes-{size}.png", full_page=True)
        tab(page, "Change")
        click_at(page, "Codebook: what each code decodes to, by similarity", 0.9, 0.9)
        expect(page.get_by_label("Code", exact=True)).not_to_have_value("0")
        click_at(page, "The picture to paint on", 0.5, 0.5)
        tab(page, "Picture")
        expect(page.get_by_text("tokens changed by hand")).to_be_visible()
        tab(page, "Samples")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.get_by_alt_text("Samples of the prior")).to_be_visible()
        page.screenshot(path=screenshots / f"app-samples-{size}.png", full_page=True)
        assert width_beyond(page) == 0
        assert wrong == []


def slide(page: Page) -> None:
    """Drag the line between original and reconstruction."""
    before = page.locator(".outer .content, .slider-wrap").first.inner_html()
    box = page.locator(".slider-wrap").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, y, steps=4)
    page.mouse.up()
    assert page.locator(".outer .content, .slider-wrap").first.inner_html() != before


def width_beyond(page: Page) -> int:
    """Pixels that the page is wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_bad_upload_harms_nobody_else(opened: Browser, address: str, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture <b>at all</b>")
    with visit(opened, address, "desktop") as (one, _), visit(opened, address, "desktop") as (other, _):
        upload(other, file)
        expect(other.get_by_text("11 × 8 = 88")).to_be_visible()
        upload(one, bad)
        expect(one.get_by_text("not an image in any format that is read")).to_be_visible()
        other.get_by_text("entropy of q(c|x)").click()
        expect(other.get_by_text("(bits)")).to_be_visible()
        upload(one, file)
        expect(one.get_by_text("11 × 8 = 88")).to_be_visible()


def test_marked_places_are_drawn(opened: Browser, address: str, file: Path) -> None:
    with visit(opened, address, "desktop") as (page, _):
        upload(page, file)
        expect(page.get_by_text("11 × 8 = 88")).to_be_visible()
        tab(page, "Change")
        page.get_by_text("mark for the prior").click()
        before = page.get_by_alt_text("The picture to paint on").get_attribute("src")
        click_at(page, "The picture to paint on", 0.5, 0.5)
        expect(page.get_by_alt_text("The picture to paint on")).not_to_have_attribute("src", before or "")
        page.get_by_role("button", name="Draw the marked places").click()
        tab(page, "Picture")
        expect(page.get_by_text("tokens changed by hand")).to_be_visible()


@pytest.fixture(scope="module")
def web(model: VQAutoencoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not ORT_FILE.is_file():
        pytest.skip(f"there is no {ORT_FILE}; make {ORT_FILE.relative_to(ORT_FILE.parents[1])} fetches it")
    folder = tmp_path_factory.mktemp("web")
    write_web_page(model, folder, str(ORT_FILE))
    with static_files(folder) as address:
        yield address


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_web_page(
    opened: Browser, web: str, model: VQAutoencoder, picture: Tensor, file: Path, screenshots: Path, size: str
) -> None:
    with visit(opened, web, size) as (page, wrong):
        expect(page.get_by_text("16 codes, one for 4 × 4 pixels.")).to_be_visible()
        upload(page, file)
        expect(page.get_by_role("status")).to_have_text("Done.")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save the tokens").click()
        saved = json.loads(Path(download.value.path()).read_text())
        found = torch.tensor(saved["tokens"]).view(saved["rows"], saved["columns"])
        assert torch.equal(found, model.encode(picture[None])[0])
        canvas = "document.getElementById('reconstruction')"
        decoded = page.evaluate(f"[...{canvas}.getContext('2d').getImageData(0, 0, 44, 32).data]")
        seen = np.array(decoded, dtype=int).reshape(32, 44, 4)[..., :3]
        expected = (model.reconstruct(picture[None])[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(seen - expected).max() <= 1
        page.get_by_label("Share of the original").fill("20")
        assert "--split: 20%" in (page.locator("#compare").get_attribute("style") or "")
        page.screenshot(path=screenshots / f"web-{size}.png", full_page=True)
        assert width_beyond(page) == 0
        assert wrong == []


def test_web_page_tells_what_it_cannot_read(opened: Browser, web: str, tmp_path: Path, file: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with visit(opened, web, "desktop") as (page, _):
        expect(page.get_by_text("16 codes")).to_be_visible()
        upload(page, bad)
        expect(page.get_by_role("status")).to_contain_text("no picture that the browser can read")
        upload(page, file)
        expect(page.get_by_role("status")).to_have_text("Done.")
