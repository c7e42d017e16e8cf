"""What ``mkdocs build`` does beside its plugins: pages of the root, the gallery, notebooks, formulas as MathML."""

from __future__ import annotations

import html
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import ziamath
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import notebooks

ROOT = Path(__file__).resolve().parents[2]
LOG = logging.getLogger("mkdocs.hooks.gmvq")
#: Pages that stand in the root of the repository, where people look for them there.
ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
#: What latex2mathml does not know, in words that it knows.
_WORDS = {
    r"\lvert": "|",
    r"\rvert": "|",
    r"\arg\max": r"\operatorname{arg\,max}",
    r"\Bigl": r"\left",
    r"\Bigr": r"\right",
}
_MATH = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
#: A link whose text is the name of the file, as in the repository.
_FILE_LINK = re.compile(r"\[[\w./-]+\.md\]\(([\w./-]+\.md)")
#: A link to a notebook, whose page is made from it.
_NOTEBOOK = re.compile(r"(\]\(notebooks/\w+)\.py\)")
#: A function before its argument, which latex2mathml sets without the space between them.
_FUNCTION = re.compile(r"(<mi>(?:log|exp|tr)</mi>)(?=<m(?:i|n|sub|sup|subsup|frac)\b)")
_FIGURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.(?:png|svg|jpg|webp))\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, the font of formulas, and the executed notebooks."""
    for name in ROOT_PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    font = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    files.append(File.generated(config, "site/math.ttf", abs_src_path=str(font)))
    execute = os.environ.get("GMVQ_DOCS_EXECUTE", "1") != "0"
    for source in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        page = notebooks.to_page(source, execute=execute)
        folder = Path("notebooks")
        files.append(File.generated(config, str(folder / f"{source.stem}.md"), content=page.text))
        for name, image in page.images.items():
            files.append(File.generated(config, str(folder / name), content=image))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Mend links that lead out of docs/, name linked pages by their titles, and fill the gallery."""
    if page.file.src_uri == "gallery.md":
        return markdown.replace("<!-- figures -->", _gallery(files))
    for name in ROOT_PAGES:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    markdown = _NOTEBOOK.sub(r"\1.md)", markdown)

    def titled(found: re.Match[str]) -> str:
        place = os.path.normpath(os.path.join(os.path.dirname(page.file.src_uri), found[1]))
        target = files.get_file_from_path(place)
        return f"[{_title(target.content_string) if target else found[1]}]({found[1]}"

    return _FILE_LINK.sub(titled, markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Formulas as MathML, which browsers draw without a script or a font from elsewhere."""
    return _MATH.sub(lambda found: _mathml(found[2], found[1] == "div", page.file.src_uri), html)


def _mathml(formula: str, block: bool, where: str) -> str:
    text = html.unescape(formula).strip()
    for word, known in _WORDS.items():
        text = re.sub(re.escape(word) + r"(?![A-Za-z])", lambda _, known=known: known, text)
    try:
        result = convert(text, display="block" if block else "inline")
    except Exception as error:
        LOG.warning(
            "%s: the formula %r cannot be converted: %s: %s", where, text, type(error).__name__, error
        )
        return html.escape(text)
    if unknown := re.findall(r"\\[A-Za-z]+|<mi>&(?:amp;)?</mi>", result):
        LOG.warning("%s: the formula %r has what latex2mathml does not know: %s", where, text, unknown)
    return _FUNCTION.sub(r'\1<mspace width="0.17em" />', result)


def _gallery(files: Files) -> str:
    """Every figure of the pages, with its text and the page that explains it."""
    shown: list[str] = []
    for file in files.documentation_pages():
        if file.src_uri in ("index.md", "gallery.md") or file.generated_by:
            continue
        text = file.content_string
        for caption, path in _FIGURE.findall(text):
            place = os.path.normpath(os.path.join(os.path.dirname(file.src_uri), path))
            shown.append(f"-   ![{caption}]({place})\n\n    [{_title(text)}]({file.src_uri}): {caption}\n")
    return '<div class="grid cards" markdown>\n\n' + "\n".join(shown) + "\n</div>\n"


def _title(text: str) -> str:
    found = re.search(r"(?m)^# (.+)$", text)
    return found[1] if found else "page"
