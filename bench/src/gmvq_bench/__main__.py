"""``python -m gmvq_bench``: the command line of gmvq, where packages are on the path and not installed."""

from __future__ import annotations

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
