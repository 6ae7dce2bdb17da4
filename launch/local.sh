#!/usr/bin/env bash
# Trains in N processes on this machine, and starts all of them again if one is lost:
#   launch/local.sh [--dry_run] N --config=FILE --workdir=DIR --data_dir=DIR [--config.x=y ...]
# The first process writes to the terminal, the others to log files; the script prints their folder.
# Exit code: 0 done, 2 the user has to change something, 75 stopped by a signal and saved.
# MURAL_RESTARTS is the largest number of restarts (10).
set -u

dry_run=
if [ "${1:-}" = --dry_run ]; then
    dry_run=1
    shift
fi
case ${1:-} in
    '' | *[!0-9]* | 0)
        sed -n '2,6s/^# *//p' "$0" >&2
        exit 2
        ;;
esac
count=$1
shift
restarts=${MURAL_RESTARTS:-10}

# The first process listens at this port, and the others find it there.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
if [ -n "$dry_run" ]; then
    for index in $(seq 0 $((count - 1))); do
        echo "JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$count JAX_PROCESS_ID=$index \\"
        echo "    mural train $*"
    done
    exit 0
fi

logs=$(mktemp -d "${TMPDIR:-/tmp}/mural-local.XXXXXX")
[ "$count" -gt 1 ] && echo "processes 1 to $((count - 1)) write to $logs" >&2
stopped=
pids=
forward() {
    stopped=1
    for pid in $pids; do kill -TERM "$pid" 2>/dev/null; done
}
trap forward TERM INT

train() {
    pids=
    for index in $(seq 0 $((count - 1))); do
        (
            export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$count JAX_PROCESS_ID=$index
            [ "$index" -gt 0 ] && exec >>"$logs/$index.log" 2>&1
            exec mural train "$@"
        ) &
        pids="$pids $!"
    done
    # 2 outweighs other codes: a restart cannot help then.
    worst=0
    for pid in $pids; do
        # A signal ends `wait` before the process has ended.
        while :; do
            wait "$pid"
            code=$?
            kill -0 "$pid" 2>/dev/null || break
        done
        [ "$worst" -ne 2 ] && [ "$code" -ne 0 ] && worst=$code
    done
    return "$worst"
}

while :; do
    train "$@"
    code=$?
    if [ "$code" -eq 0 ] || [ "$code" -eq 2 ] || [ -n "$stopped" ]; then exit "$code"; fi
    [ "$restarts" -gt 0 ] || break
    restarts=$((restarts - 1))
    echo "ended with code $code; starting again from the newest checkpoint, $restarts times left" >&2
    # The old port may still be in use by the lost processes.
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
done
echo "no restarts left; the logs of the other processes are in $logs" >&2
exit "$code"
