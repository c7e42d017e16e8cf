"""The report's HTML: style sheet and small builders; every text that comes from outside is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from .pictures import Picture, png_bytes

#: Nothing may be loaded from anywhere: the browser enforces what the report promises.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f5f6f8; --ink: #1b1f24; --soft: #5c6570;
  --line: #dcdfe4; --accent: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --card: #1d2127; --ink: #e6e8eb;
  --soft: #9aa3ae;
  --line: #333a43; --accent: #7aa7ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 56px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 10px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
h3 { font-size: 14px; margin: 0 0 6px; }
p { margin: 6px 0; max-width: 78ch; }
.soft, figcaption, .unit { color: var(--soft); }
figcaption, .small { font-size: 13px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 10px;
  margin: 20px 0 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 11px 13px; }
.tile b { display: block; white-space: nowrap; font-size: 22px; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tile small { font-size: 12px; font-weight: normal; color: var(--soft); }
.tile span { display: block; color: var(--soft); font-size: 13px; line-height: 1.35; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 14px; }
.card, figure, .tile, tr { break-inside: avoid; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: 3px; }
.strip { display: grid; gap: 6px; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr);
  margin-top: 6px; }
.strip figcaption { font-size: 12px; line-height: 1.35; margin-bottom: 3px; }
.name { font-size: 12px; overflow-wrap: anywhere; display: flex; justify-content: space-between; gap: 10px; }
.bars { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 8px 28px;
  margin: 10px 0 14px; }
.bar img { height: 11px; image-rendering: auto; }
.bar div { display: flex; justify-content: space-between; font-size: 12px;
  font-variant-numeric: tabular-nums; }
.columns { columns: 2 380px; column-gap: 28px; margin-top: 12px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 14px; }
td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: baseline; }
td.value { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.unit { font-size: 12.5px; white-space: nowrap; width: 1%; padding-right: 0; }
.plain td + td { overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 11px 13px;
  margin: 6px 0 14px;
  font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.sheet { max-width: 720px; margin: 14px auto 0; }
@media print { :root { --back: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --accent: #000;
  color-scheme: light; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; } h2, h3 { break-after: avoid; }
  .two { grid-template-columns: 1fr 1fr; } .columns { columns: 2; } .sheet { max-width: 11cm; }
  .tiles { grid-template-columns: repeat(4, 1fr); } table { font-size: 9pt; }
  .strip figcaption { font-size: 6.5pt; } img { print-color-adjust: exact; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A complete HTML document; ``title`` is plain text, ``body`` HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def header(title: str, facts: str) -> str:
    """The heading of the page, plain text."""
    return f"<header><h1>{escape(title)}</h1>{paragraph(facts, soft=True)}</header>"


def section(heading: str, *parts: str) -> str:
    """A heading and what belongs to it; nothing where there are no parts."""
    inside = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(heading)}</h2>\n{inside}\n</section>" if inside else ""


def paragraph(text: str, *, soft: bool = False) -> str:
    """A paragraph of plain text."""
    return f'<p class="soft small">{escape(text)}</p>' if soft else f"<p>{escape(text)}</p>"


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """Large figures: (label, value, unit), plain text."""
    inside = ""
    for label, value, unit in entries:
        if len(unit) > 6:  # too long to stand beside the figure
            label, unit = f"{label}, {unit}", ""
        figure = f"<b>{escape(value)} <small>{escape(unit)}</small></b>"
        inside += f'<div class="tile">{figure}<span>{escape(label)}</span></div>'
    return f'<div class="tiles">{inside}</div>' if entries else ""


def figures_table(rows: Iterable[tuple[str, str, str]]) -> str:
    """A table of (label, value, unit) in one or two columns, plain text."""
    inside = "".join(
        f'<tr><td>{escape(label)}</td><td class="value">{escape(value)}</td>'
        f'<td class="unit">{escape(unit)}</td></tr>'
        for label, value, unit in rows
    )
    return f'<div class="columns"><table>{inside}</table></div>' if inside else ""


def plain_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of (name, text), plain text."""
    inside = "".join(f'<tr><td class="soft">{escape(n)}</td><td>{escape(text)}</td></tr>' for n, text in rows)
    return f'<table class="plain">{inside}</table>'


def preformatted(text: str) -> str:
    """Plain text as it stands."""
    return f"<pre>{escape(text)}</pre>"


def card(heading: str, svg: str) -> str:
    """A plot (SVG of ``plots``) under a heading in plain text."""
    return f'<figure class="card"><h3>{escape(heading)}</h3>{svg}</figure>'


def image(picture: Picture, alt: str) -> str:
    """A picture inside the document; ``alt`` in plain text."""
    data = base64.b64encode(png_bytes(picture)).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def captioned(picture: Picture, caption: str, alt: str) -> str:
    """A picture under a caption, plain text."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{image(picture, alt)}</figure>"


def colour_bar(strip: Picture, label: str, low: str, high: str) -> str:
    """A colour bar with its label and both ends, plain text."""
    return (
        f'<div class="bar"><span class="small">{escape(label)}</span>{image(strip, label)}'
        f"<div><span>{escape(low)}</span><span>{escape(high)}</span></div></div>"
    )


def grid(parts: Sequence[str], name: str = "two") -> str:
    """HTML parts side by side where the page is wide enough; ``name`` is a class of the style sheet."""
    return f'<div class="{name}">{"".join(parts)}</div>' if parts else ""
