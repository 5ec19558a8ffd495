#!/usr/bin/env bash
# A sweep as a Slurm array, one run an element; a pre-empted run is saved (SIGTERM) and goes on when it is requeued.
#
#   air-hf sweep --task sudoku --seeds 0-4 --output runs/paper --print > runs.txt
#   sbatch --array=1-$(wc -l < runs.txt) examples/slurm.sh runs.txt
#   air-hf sweep --task sudoku --seeds 0-4 --output runs/paper     # finishes what is missing, writes the table
#SBATCH --job-name=air-hf
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
command=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")
exec srun bash -c "exec $command"
