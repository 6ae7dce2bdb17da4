#!/usr/bin/env bash
# Trains on a TPU slice of TPU VMs, asked for as a queued resource, and again after a preemption:
#   launch/tpu_vm.sh [--dry_run] NAME --config=FILE --workdir=DIR --data_dir=DIR [...]
# From the environment:
#   ZONE, ACCELERATOR   such as us-west4-a and v5litepod-256 (required)
#   VERSION             of the TPU software (v2-alpha-tpuv5-lite)
#   PACKAGE             what pip installs (mural-jax[tpu])
#   SPOT                1 for a slice that may be taken away at any time
#   SETUP               a command for each host before the training, such as mounting a bucket
# The workdir and the data have to be where all hosts see them, such as a bucket mounted by SETUP.
set -u

dry_run=
if [ "${1:-}" = --dry_run ]; then
    dry_run=1
    shift
fi
if [ $# -lt 2 ] || [ -z "${ZONE:-}" ] || [ -z "${ACCELERATOR:-}" ]; then
    sed -n '2,10s/^# *//p' "$0" >&2
    exit 2
fi
name=$1
shift
package=${PACKAGE:-mural-jax[tpu]}
tpus="gcloud compute tpus"

run() {
    if [ -n "$dry_run" ]; then
        echo "$*"
    else
        eval "$*"
    fi
}

ask() {
    run "$tpus queued-resources create $name --node-id=$name --zone=$ZONE" \
        "--accelerator-type=$ACCELERATOR --runtime-version=${VERSION:-v2-alpha-tpuv5-lite}" \
        "${SPOT:+--spot}"
}

state() {
    $tpus queued-resources describe "$name" --zone="$ZONE" --format='value(state.state)' 2>/dev/null
}

wait_until_active() {
    if [ -n "$dry_run" ]; then
        echo "$tpus queued-resources describe $name --zone=$ZONE --format='value(state.state)'  # until ACTIVE"
        return 0
    fi
    while :; do
        case $(state) in
            ACTIVE) return 0 ;;
            FAILED | SUSPENDED | SUSPENDING) return 1 ;;
        esac
        sleep 30
    done
}

on_all_hosts() {
    run "$tpus tpu-vm ssh $name --zone=$ZONE --worker=all --command=$(printf %q "$1")"
}

install() {
    on_all_hosts "python3 -m venv ~/mural && ~/mural/bin/pip install --quiet '$package'${SETUP:+ && $SETUP}"
}

train() {
    # Leftovers of a connection that broke would hold the devices. MURAL_TPU_HOSTS: all hosts of
    # the slice train together.
    on_all_hosts "pkill -TERM -f '[m]ural train' ; while pgrep -f '[m]ural train' >/dev/null ; do sleep 1 ; done ;
        PATH=~/mural/bin:\$PATH MURAL_TPU_HOSTS=1 mural train $(printf '%q ' "$@")"
}

[ -n "$dry_run" ] || [ -n "$(state)" ] || ask || exit 1
[ -z "$dry_run" ] || ask
restarts=${MURAL_RESTARTS:-100}
installed=
while :; do
    if ! wait_until_active; then
        echo "the slice was taken away; asking for another" >&2
        run "$tpus queued-resources delete $name --zone=$ZONE --force --quiet" || exit 1
        ask || exit 1
        installed=
        continue
    fi
    [ -n "$installed" ] || { install && installed=1; }
    train "$@"
    code=$?
    if [ -n "$dry_run" ] || [ "$code" -eq 0 ] || [ "$code" -eq 2 ]; then exit "$code"; fi
    [ "$restarts" -gt 0 ] || exit "$code"
    restarts=$((restarts - 1))
    echo "ended with code $code; starting again from the newest checkpoint" >&2
    sleep 10
done
