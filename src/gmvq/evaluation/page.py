"""HTML pages from the templates of this folder; every text that comes from outside is escaped by them."""

from __future__ import annotations

import base64
from typing import Any

from ..errors import require
from .pictures import Picture, png_bytes


def render(template: str, **values: Any) -> str:
    """Fill in a template; a name that it asks for and that is not among ``values`` is an error."""
    jinja2 = require("jinja2", "train")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gmvq.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = png_uri
    return environment.get_template(template).render(values)


def png_uri(picture: Picture) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(picture)).decode('ascii')}"
