"""``gmvq bench layer`` for machines where the package is not installed; the same options.

    PYTHONPATH=src python benchmarks/layer.py --json benchmarks/results/layer_cpu.json --threads 2
    python benchmarks/layer.py --report benchmarks/results/layer_cpu.json --markdown   # tables of docs/performance.md

Needs torch; peers, faiss and matplotlib where they are installed.
"""

from __future__ import annotations

import sys

from gmvq.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "layer", *sys.argv[1:]]))
