#!/usr/bin/env bash
# Train under Slurm for as long as it takes: five minutes before the time is up, or when the job is preempted, the step at
# hand ends, a checkpoint is written, and the job goes back into the queue, from where it goes on.
#
#   CONFIG=configs/imagenet256.yaml OUT=/shared/runs/imagenet sbatch examples/cluster/slurm.sh [more options of gmvq fit]
#
# Change the numbers here for your cluster, or give them to sbatch. GLOBAL_BATCH is as in torchrun.sh.
#SBATCH --job-name=gmvq
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=10
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
set -uo pipefail
: "${CONFIG:?a configuration, such as configs/imagenet256.yaml}" "${OUT:?the folder of the run, on a disk that all nodes share}"
GLOBAL_BATCH=${GLOBAL_BATCH:-256}
if ((GLOBAL_BATCH % SLURM_NTASKS)); then
  echo "GLOBAL_BATCH=$GLOBAL_BATCH images cannot be divided among $SLURM_NTASKS tasks" >&2
  exit 2
fi

srun --kill-on-bad-exit=0 python -m gmvq fit --config "$CONFIG" --out "$OUT" --ckpt_path auto \
  --data.batch_size $((GLOBAL_BATCH / SLURM_NTASKS)) --trainer.strategy ddp \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices $((SLURM_NTASKS / SLURM_NNODES)) "$@"
code=$?

# 143 = 128 + SIGTERM: asked to stop, and the checkpoint is there. Any other code is the end, or an error to be looked at.
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
