#!/usr/bin/env bash
# Train on one or several machines with torchrun. Run the same line on each; where a process is lost, torchrun starts all of
# them again, and they go on from the last checkpoint. So does the same line after the machines were switched off.
#
#   CONFIG=configs/imagenet256.yaml OUT=/shared/runs/imagenet ./examples/cluster/torchrun.sh [more options of gmvq fit]
#   NODES=2 HEAD=first.machine:29500 CONFIG=... OUT=... ./examples/cluster/torchrun.sh
#
# GLOBAL_BATCH images make a step whatever the number of GPUs, so that a restart on more or fewer of them goes on with the
# same order of the data and the same statistics (docs/training.md).
set -euo pipefail
: "${CONFIG:?a configuration, such as configs/imagenet256.yaml}" "${OUT:?the folder of the run, on a disk that all machines share}"
NODES=${NODES:-1}
GPUS=${GPUS:-8}
GLOBAL_BATCH=${GLOBAL_BATCH:-256}
if ((GLOBAL_BATCH % (NODES * GPUS))); then
  echo "GLOBAL_BATCH=$GLOBAL_BATCH images cannot be divided among $((NODES * GPUS)) GPUS" >&2
  exit 2
fi
rendezvous=(--standalone)
if ((NODES > 1)); then
  rendezvous=(--rdzv_backend c10d --rdzv_endpoint "${HEAD:?address:port of the first machine}" --rdzv_id "$(basename "$OUT")")
fi
exec torchrun --nnodes "$NODES" --nproc_per_node "$GPUS" --max_restarts "${RESTARTS:-3}" "${rendezvous[@]}" -m gmvq fit \
  --config "$CONFIG" --out "$OUT" --ckpt_path auto --data.batch_size $((GLOBAL_BATCH / NODES / GPUS)) \
  --trainer.num_nodes "$NODES" --trainer.devices "$GPUS" --trainer.strategy ddp "$@"
