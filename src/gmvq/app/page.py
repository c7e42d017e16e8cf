"""The layout of ``gmvq app`` in Gradio: which control calls which function. Nothing is computed here."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..prior import Filters
from ..screen import markdown
from . import view as views
from .codes import alternatives, code_sheet, position_at
from .picture import channels_of, example_picture, read_picture, uncertainty
from .view import MAX_SAMPLES, View, redrawn, samples

if TYPE_CHECKING:
    from ..models import VQAutoencoder
    from ..prior import TokenPrior

_MAPS = {"adaptive variance": "variance", "entropy of q(c|x)": "entropy"}
_PAINT, _MARK = "put the code there", "mark for the prior"
#: One computation at a time, whoever asked; the others wait in the queue.
_EVENT: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}


def build_page(model: VQAutoencoder, prior: TokenPrior | None, title: str) -> gr.Blocks:
    """Build the page."""
    parts = SimpleNamespace(codes=code_sheet(model))
    with gr.Blocks(title=f"gmvq: {title}", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {markdown(title)}\n\n{views.description(model)}")
        parts.view = gr.State(None, time_to_live=3600)
        with gr.Row():
            parts.upload = gr.File(label="Your picture", file_types=["image"], height=150)
            parts.example = gr.Button("Use an example", scale=0, min_width=180)
        with gr.Tab("Picture"):
            _picture_tab(parts)
        with gr.Tab("Codes"):
            _codes_tab(parts)
        with gr.Tab("Change"):
            _change_tab(parts, prior)
        _connect_pictures(model, parts)
        _connect_codes(model, parts)
        _connect_changes(model, prior, parts)
        if prior is not None:
            with gr.Tab("Samples"):
                _samples_tab(model, prior)
    return page


def _image(label: str, **options: Any) -> gr.Image:
    """A picture to look at, and to click on where an event listens; PNG, as WebP would change its pixels."""
    gr.Markdown(label)
    return gr.Image(
        label=label, show_label=False, alt_text=label, format="png", interactive=False, buttons=[], **options
    )


def _picture_tab(parts: SimpleNamespace) -> None:
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            gr.Markdown("Original (left) and reconstruction (right)")
            parts.slider = gr.ImageSlider(
                label="Original (left) and reconstruction (right)",
                show_label=False,
                format="png",
                interactive=False,
                max_height=640,
                buttons=["fullscreen"],
            )
        with gr.Column(scale=2, min_width=300):
            parts.figures = gr.Markdown("Open a picture, or use the example.", container=True)
            parts.map = _image("Uncertainty map")
            parts.kind = gr.Radio(list(_MAPS), value=next(iter(_MAPS)), label="Uncertainty")
            parts.scale = gr.Markdown()


def _codes_tab(parts: SimpleNamespace) -> None:
    gr.Markdown(
        "Click on a position to see its four most probable codes, and what the picture becomes with each."
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            parts.tokens = _image("Tokens: one colour for each code, near codes alike")
            with gr.Row():
                parts.row = gr.Number(0, label="Row", precision=0, minimum=0, min_width=90)
                parts.column = gr.Number(0, label="Column", precision=0, minimum=0, min_width=90)
                parts.look = gr.Button("Look at this position", min_width=160)
        with gr.Column(scale=2, min_width=300):
            parts.probable = gr.Markdown("No position is chosen.", container=True)
            parts.gallery = gr.Gallery(
                label="The picture with each of these codes",
                show_label=False,
                columns=2,
                height="auto",
                format="png",
                interactive=False,
                buttons=[],
            )


def _change_tab(parts: SimpleNamespace, prior: TokenPrior | None) -> None:
    masked = prior is not None and prior.kind == "masked"
    gr.Markdown(
        "Click on the codebook to choose a code, then on the picture to put it there."
        + (" Or mark places, and let the prior draw them anew." if masked else "")
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            parts.canvas = _image("The picture to paint on")
            parts.brush = gr.Slider(1, 32, 3, step=1, label="Brush: positions along a side")
        with gr.Column(scale=2, min_width=300):
            label = "Codebook: what each code decodes to, by similarity"
            parts.sheet = _image(label, value=parts.codes.picture)
            parts.code = gr.Number(0, label="Code", precision=0, minimum=0)
            modes = [_PAINT, _MARK] if masked else [_PAINT]
            parts.mode = gr.Radio(modes, value=_PAINT, label="A click on the picture will", visible=masked)
            with gr.Row():
                parts.redraw = gr.Button("Draw the marked places", variant="primary", visible=masked)
                parts.restore = gr.Button("Undo all changes")
            parts.drawing = _filter_controls(visible=masked)


def _filter_controls(*, visible: bool = True) -> list[Any]:
    """Temperature, top-p and seed."""
    return [
        gr.Slider(0.0, 2.0, 1.0, step=0.05, label="Temperature (0: the most probable)", visible=visible),
        gr.Slider(0.05, 1.0, 1.0, step=0.05, label="Top-p (1: every code)", visible=visible),
        gr.Number(0, label="Seed", precision=0, visible=visible),
    ]


def _samples_tab(model: VQAutoencoder, prior: TokenPrior) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            count = gr.Slider(1, MAX_SAMPLES, 16, step=1, label="Pictures")
            controls = _filter_controls()
            known = f"0 to {prior.spec.labels - 1}; -1 for none"
            label = gr.Number(-1, label=f"Class ({known})", precision=0, visible=prior.spec.labels > 0)
            draw = gr.Button("Draw", variant="primary")
        with gr.Column(scale=3, min_width=300):
            sheet = _image("Samples of the prior")

    @told
    def on_draw(count: float, temperature: float, top_p: float, seed: float, label: float) -> Any:
        filters = Filters(temperature=temperature, top_p=top_p)
        chosen = _whole(label)
        return samples(
            model, prior, int(count), filters, seed=_whole(seed), label=None if chosen < 0 else chosen
        )

    draw.click(on_draw, [count, *controls, label], sheet, **_EVENT)


def _connect_pictures(model: VQAutoencoder, parts: SimpleNamespace) -> None:
    """Upload, example and uncertainty."""

    def on_upload(file: str, kind: str) -> tuple[Any, ...]:
        # The field is emptied whatever becomes of the file, so that the next one can be dropped at once.
        try:
            view = views.opened(model, read_picture(Path(file), channels_of(model)))
        except (ValueError, OSError) as error:
            gr.Warning(html.escape(str(error)), title="Not a picture that can be read")
            return None, *(gr.skip() for _ in everything)
        return None, *_everything(model, view), *_map(model, view, kind)

    @told
    def on_example(kind: str) -> tuple[Any, ...]:
        view = views.opened(model, example_picture(channels_of(model)))
        return *_everything(model, view), *_map(model, view, kind)

    @told
    def on_kind(view: View | None, kind: str) -> tuple[Any, ...]:
        return _map(model, view, kind) if view else (None, "")

    of_map = [parts.map, parts.scale]
    everything = [*_outputs(parts), *of_map]
    event: dict[str, Any] = {**_EVENT, "show_progress_on": parts.slider}
    parts.upload.upload(on_upload, [parts.upload, parts.kind], [parts.upload, *everything], **event)
    parts.example.click(on_example, parts.kind, everything, **event)
    parts.kind.change(on_kind, [parts.view, parts.kind], of_map, show_progress_on=parts.map, **_EVENT)


def _connect_codes(model: VQAutoencoder, parts: SimpleNamespace) -> None:
    """A click on the tokens, and the same by two numbers for those who do not click."""

    @told
    def on_look(view: View | None, row: float, column: float) -> tuple[Any, ...]:
        at = _whole(row), _whole(column)
        found = alternatives(model, _open(view).encoded, *at)
        pictures = [(one.picture, f"{one.code}: {100 * one.probability:.1f} %") for one in found]
        return *at, views.alternatives_table(*at, found), pictures

    def on_click(view: View | None, event: gr.SelectData) -> tuple[Any, ...]:
        return on_look(view, *position_at(model, _open(view).encoded, *event.index))

    outputs = [parts.row, parts.column, parts.probable, parts.gallery]
    event: dict[str, Any] = {**_EVENT, "show_progress_on": parts.gallery}
    parts.tokens.select(on_click, parts.view, outputs, **event)
    parts.look.click(on_look, [parts.view, parts.row, parts.column], outputs, **event)


def _connect_changes(model: VQAutoencoder, prior: TokenPrior | None, parts: SimpleNamespace) -> None:
    """Paint, mark, draw, undo."""

    def on_code(event: gr.SelectData, current: float) -> float:
        chosen = parts.codes.code_at(*event.index)
        return current if chosen is None else chosen

    @told
    def change(view: View | None, x: int, y: int, mode: str, code: float, brush: float) -> tuple[Any, ...]:
        view = _open(view)
        chosen = views.checked_code(model, _whole(code)) if mode == _PAINT else None
        at = position_at(model, view.encoded, x, y)
        return _everything(model, views.brushed(view, *at, chosen, int(brush)))

    def on_paint(
        view: View | None, mode: str, code: float, brush: float, event: gr.SelectData
    ) -> tuple[Any, ...]:
        return change(view, *event.index, mode, code, brush)

    @told
    def on_redraw(view: View | None, temperature: float, top_p: float, seed: float) -> tuple[Any, ...]:
        view = _open(view)
        assert prior is not None
        filters = Filters(temperature=temperature, top_p=top_p)
        encoded = redrawn(prior, view.encoded, view.marks, filters, seed=_whole(seed))
        return _everything(model, View(encoded, view.original, view.marks & False))

    @told
    def on_restore(view: View | None) -> tuple[Any, ...]:
        return _everything(model, views.restored(_open(view)))

    outputs, event = _outputs(parts), {**_EVENT, "show_progress_on": parts.canvas}
    parts.sheet.select(on_code, parts.code, parts.code, **_EVENT)
    parts.canvas.select(on_paint, [parts.view, parts.mode, parts.code, parts.brush], outputs, **event)
    parts.redraw.click(on_redraw, [parts.view, *parts.drawing], outputs, **event)
    parts.restore.click(on_restore, parts.view, outputs, **event)


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Tell the visitor, and nobody else, what was wrong with a request."""

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ValueError, TypeError, OSError) as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    return run


def _open(view: View | None) -> View:
    if view is None:
        raise gr.Error("Open a picture first, or use the example.", print_exception=False)
    return view


def _whole(value: float | None) -> int:
    """The value of a field for whole numbers, which can be empty."""
    if value is None:
        raise ValueError("a number is empty; fill it in")
    return int(value)


def _outputs(parts: SimpleNamespace) -> list[Any]:
    """What ``_everything`` fills."""
    return [parts.view, parts.slider, parts.figures, parts.tokens, parts.canvas]


def _everything(model: VQAutoencoder, view: View) -> tuple[Any, ...]:
    seen = views.show(model, view)
    return view, (seen.original, seen.reconstruction), seen.table, seen.tokens, seen.canvas


def _map(model: VQAutoencoder, view: View, kind: str) -> tuple[Any, str]:
    picture, low, high = uncertainty(model, view.encoded, _MAPS[kind])
    unit = (
        "bits" if _MAPS[kind] == "entropy" else "log s², s in standard deviations of the latents at the start"
    )
    return picture, f"Dark: {low:.2f}, bright: {high:.2f} ({unit})"
