#!/usr/bin/env bash
# Trains on a slice of TPU VMs, requested as a queued resource, and again after a preemption:
#   launch/tpu_vm.sh [--dry_run] NAME --config=FILE --workdir=DIR --data_dir=DIR [...]
# Environment variables, with their defaults in brackets:
#   ZONE, ACCELERATOR   such as us-west4-a and v5litepod-256 (required)
#   VERSION             version of the TPU software (v2-alpha-tpuv5-lite)
#   PACKAGE             package to install (mural-jax[tpu])
#   SPOT                1 for a slice that may be preempted at any time
#   SETUP               command that each machine runs before the training, such as mounting a bucket
# All machines must see the same workdir and data, for example in a bucket that SETUP mounts.
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

request() {
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

on_all_machines() {
    run "$tpus tpu-vm ssh $name --zone=$ZONE --worker=all --command=$(printf %q "$1")"
}

install() {
    # The machines have Python 3.10, which is too old; uv brings its own.
    on_all_machines "python3 -m pip install --quiet --user uv &&
        ~/.local/bin/uv venv --quiet --clear --python=3.11 ~/mural &&
        ~/.local/bin/uv pip install --quiet --python=~/mural/bin/python '$package'${SETUP:+ && $SETUP}"
}

train() {
    # A training whose connection broke may still run and hold the devices. It holds the lock, too:
    # end it, and start when the lock is free.
    # MURAL_TPU_HOSTS makes the processes of all machines of the slice train together.
    on_all_machines "lock=~/mural.lock
        if ! flock --nonblock \$lock true ; then
            kill -TERM \$(cat ~/mural.pid)
            flock --wait=300 \$lock true || kill -KILL \$(cat ~/mural.pid)
        fi
        export PATH=~/mural/bin:\$PATH MURAL_TPU_HOSTS=1
        exec flock --no-fork \$lock bash -c 'echo \$\$ >~/mural.pid ; exec \"\$@\"' - mural train $(printf '%q ' "$@")"
}

# A slice that an earlier call requested is used again.
[ -n "$dry_run" ] || [ -n "$(state)" ] || request || exit 1
[ -z "$dry_run" ] || request
restarts=${MURAL_RESTARTS:-100}
installed=
while :; do
    if ! wait_until_active; then
        echo "the slice was preempted; requesting another" >&2
        run "$tpus queued-resources delete $name --zone=$ZONE --force --quiet" || exit 1
        request || exit 1
        installed=
        continue
    fi
    if [ -z "$installed" ] && ! install; then
        [ "$(state)" = ACTIVE ] || continue
        echo "the installation failed, see above; another try would fail, too" >&2
        exit 1
    fi
    installed=1
    train "$@"
    code=$?
    if [ -n "$dry_run" ] || [ "$code" -eq 0 ] || [ "$code" -eq 2 ]; then exit "$code"; fi
    [ "$restarts" -gt 0 ] || exit "$code"
    restarts=$((restarts - 1))
    echo "ended with code $code; starting again from the newest checkpoint" >&2
    sleep 10
done
