#!/usr/bin/env bash
# A cell of a study, or a worker of a search, as a Slurm job. `flows/slurm.py submit` submits it as an array:
#
#     slurm_job.sh HOME CELLS COMMAND...
#
# HOME becomes VDT_HOME. Line n of the file CELLS begins with the cell of element n; "-" stands for a worker of a search.
# A job that runs out of time, is preempted or loses its node is queued again, and goes on from its last checkpoint. One
# that is cancelled stays away; the line that submitted it continues it.
#SBATCH --ntasks=1
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

export VDT_HOME=$1
cells=$2
shift 2
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}} METAFLOW_RUN_MAX_WORKERS=1 METAFLOW_RESUME_MAX_WORKERS=1
export PYTHONUNBUFFERED=1
# without a server, records are kept in files: no database of several machines lies on a shared file system
case ${MLFLOW_TRACKING_URI:-} in
'' | sqlite:* | file:* | /* | .*) export VDT_TRACKING=${VDT_TRACKING:-later} ;;
esac
if [ "$cells" != - ]; then
    cell=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$cells" | cut -d' ' -f1)
    [ -n "$cell" ] || { echo "$cells has no line $SLURM_ARRAY_TASK_ID"; exit 2; }
    set -- "$@" --cell "$cell"
fi

echo "start $((${SLURM_RESTART_COUNT:-0} + 1)) on ${SLURMD_NODENAME:-} at $(date +%FT%T), job ${SLURM_JOB_ID:-}"
again='' flow=''
stop() {
    echo "told to stop at $(date +%FT%T)"
    [ -z "$flow" ] || kill -TERM "$flow" 2>/dev/null
}
run_out() { # the flow is asked for a checkpoint, then stopped
    again=yes
    if [ -n "$flow" ] && kill -USR1 "$flow" 2>/dev/null; then
        sleep "${VDT_SAVING_SECONDS:-20}" &
        wait $!
    fi
    stop
}
trap run_out USR1 # time is nearly up (--signal)
trap stop TERM    # cancelled or preempted: Slurm knows whether the job comes back
"$@" &
flow=$!
[ -z "$again" ] || stop # the signal was quicker
while # a signal ends a wait, not the flow
    wait "$flow"
    code=$?
    kill -0 "$flow" 2>/dev/null
do :; done
echo "ended with $code at $(date +%FT%T)"
if [ -n "$again" ] && [ "$code" -ne 0 ]; then
    echo "queued again"
    if scontrol requeue "$SLURM_JOB_ID"; then
        sleep 60 # it ends this shell
    else
        echo "Slurm does not queue it again; \`submit\` with the same options continues it"
    fi
fi
exit "$code"
