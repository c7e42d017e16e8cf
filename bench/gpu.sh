#!/usr/bin/env bash
# What only a GPU can tell, on a bare machine with torch and triton (pytest where there is one): each step is a call of
# under ten minutes and leaves a results file in OUT, bench/results unless given.
#
#   bench/gpu.sh check [OUT]    the kernel and a training step against float64 on the chip; stops at a difference
#   bench/gpu.sh layer [OUT]    cost of the layer over N, K and D, against its peers and the floors; of the search, beside
#                               flash-kmeans' argmin if that can be imported (pip install flash-kmeans)
#   bench/gpu.sh train [OUT] [SUITE]    a suite of gmvq compare, photos32 unless named (long-large, paper-full); call again
#                               until it is done
#   bench/gpu.sh all   [OUT]    all three, one after the other
set -euo pipefail
cd "$(dirname "$0")/.."
step=${1:-all} out=${2:-bench/results} suite=${3:-photos32} python=${PYTHON:-python3}
export PYTHONPATH=src:bench/src${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"

check() {
  timeout 540 "$python" tests/hardening/gpu_check.py --json "$out/gpu_check.json"
  if "$python" -c "import pytest, torch, sys; sys.exit(not torch.cuda.is_available())" 2>/dev/null; then
    timeout 300 "$python" -m pytest -q -p no:cacheprovider -o addopts= tests/functional/test_triton_topk.py
  fi
}

layer() {
  timeout 570 "$python" -m gmvq_bench bench layer --device cuda --json "$out/layer_gpu.json"
}

train() { # a call that runs out of time loses the runs at work and no other
  timeout --signal INT 570 "$python" -m gmvq_bench compare --suite "$suite" --out "$out/compare" --workers 4
}

case $step in
  check) check ;;
  layer) layer ;;
  train) train ;;
  all) check && layer && train ;;
  *) echo "usage: bench/gpu.sh check|layer|train|all [OUT] [SUITE]" >&2; exit 2 ;;
esac
