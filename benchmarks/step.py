"""``gmvq bench step`` for machines where the package is not installed; the same options.

OMP_NUM_THREADS=1 PYTHONPATH=src python benchmarks/step.py --json benchmarks/results/step.json
"""

from __future__ import annotations

import sys

from gmvq.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "step", *sys.argv[1:]]))
