"""``gmvq app``: a page in the browser that shows what a tokenizer makes of a picture, and what a prior draws."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import require
from .common import option, positive, say, switch, tell
from .loaded import load, parser_for_model


def run(argv: Sequence[str]) -> int:
    """Serve the page until it is interrupted; return 0."""
    options = _parser().parse_args(list(argv))
    for module in ("gradio", "transformers"):
        require(module, "app")
    loaded = load(options)

    from ..app.picture import check_model
    from ..app.serve import serving, wait

    check_model(loaded.model)
    prior = None
    if options.prior:
        from ..prior.opening import open_prior
        from .sample import check_tokenizer

        prior, notes = open_prior(options.prior, map_location=next(loaded.model.parameters()).device)
        check_tokenizer(prior.spec, notes, loaded, str(options.checkpoint))
    title = Path(options.checkpoint).absolute().name
    with serving(loaded.model, prior, title=title, port=options.port, share=options.share) as addresses:
        tell(f"{title}: {' and '.join(addresses)}")
        if options.share and len(addresses) == 1:
            say("gradio.live gave no public address; is there a network?")
        say("Ctrl-C stops it")
        try:
            wait()
        except KeyboardInterrupt:
            say("\nstopped; what was uploaded is gone")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_for_model(
        "app",
        "Open a page in the browser: drop a picture to see its tokens, its reconstruction and how unsure each code "
        "is; look at the codes of a position, paint with them, and draw from a prior.",
    )
    text = "a run of gmvq prior fit, or a saved prior, to draw from; a masked one also fills marked places"
    option(parser, "--prior", text, metavar="PRIOR")
    option(parser, "--port", "port of this machine; default: the first free one from 7860", positive)
    text = "also ask gradio.live for a public address; pictures then go through its servers"
    switch(parser, "--share", text)
    return parser
