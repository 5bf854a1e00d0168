#!/usr/bin/env bash
# A search on Slurm: a Ray cluster on the job's nodes, for as long as the job runs.
#
# From the project's folder, which all nodes share, with the environment that `make search` made:
#
#   sbatch cluster/slurm.sh --storage /shared/studies            # any options of the search file
#   SEARCH=searches/noise_policy.py sbatch cluster/slurm.sh --storage /shared/studies
#   ssh -L 8265:localhost:8265 FIRST_NODE                        # the dashboard; asks for ~/.ray/auth_token
#
# Preempted, or stopped by its time limit, the job is queued again and goes on where the study stopped.
#
#SBATCH --job-name=raygan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Ray takes whole machines, and stops every Ray process of its user on them when it ends.
#SBATCH --exclusive
# To this script alone, which lets the search stop cleanly before its cluster does.
#SBATCH --signal=B:TERM@60
set -euo pipefail

export PATH="$PWD/.venv/bin:$PATH"
# Without the mode, and without a token, Ray would start open to all. The home folder, with the token, is shared.
export RAY_AUTH_MODE=token
(umask 077; ray get-auth-token --generate > /dev/null)
# Nodes start within minutes of each other; Ray's own limit is 30 seconds.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# This script runs on the job's first node, so Ray's head does too, and with it the search.
address=$(hostname --all-ip-addresses | awk '{print $1}')
search_pid=$(mktemp)
trap 'rm -f "$search_pid"' EXIT

# shellcheck disable=SC2016  # expanded by the shell that becomes the search
srun ray symmetric-run --address "$address:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    bash -c 'echo $$ > "$0"; exec python "$@"' "$search_pid" "${SEARCH:-searches/v1.py}" "$@" &
step=$!

stopped=false
# The file is empty as long as the cluster starts.
trap 'stopped=true; if [[ -s $search_pid ]]; then kill -TERM "$(< "$search_pid")"; else kill -TERM "$step"; fi' TERM

# The signal ends `wait` before the search has ended.
while true; do
    wait "$step" && code=0 || code=$?
    kill -0 "$step" 2> /dev/null || break
done
if $stopped && ((code != 0)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
