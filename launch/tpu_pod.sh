#!/usr/bin/env bash
# Runs purify on all workers of a Cloud TPU slice; they find each other.
#
#   launch/tpu_pod.sh setup NAME ZONE [gcloud flags]            copies HEAD to ~/purify of each worker, installs it
#   launch/tpu_pod.sh run   NAME ZONE [gcloud flags] -- --config cifar10 --workdir /mnt/shared/cifar10
#   launch/tpu_pod.sh stop  NAME ZONE [gcloud flags]            asks all workers to save and stop (run then ends)
#
# The work folder must be on a disk that all workers see (Filestore, or a bucket mounted with gcsfuse). Ctrl-C and SIGTERM
# on `run` do what `stop` does. Needs gcloud, logged in.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[ $# -ge 3 ] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit 2; }
action=$1 name=$2 where=(--zone "$3" --worker=all)
shift 3
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  where+=("$1")
  shift
done

on_all() { gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command "$1"; }

stop() {
  # shellcheck disable=SC2016  # the workers expand it
  on_all 'p=$(cat purify.pid) && grep -qa purify "/proc/$p/cmdline" && kill -TERM "$p"'
}

setup() {
  local folder
  folder=$(mktemp -d)
  git -C "$root" archive --prefix=purify/ -o "$folder/purify.tar.gz" HEAD
  gcloud compute tpus tpu-vm scp "$folder/purify.tar.gz" "$name:purify.tar.gz" "${where[@]}"
  rm -r "$folder"
  on_all "tar xzf purify.tar.gz && . purify/launch/environment.sh &&
    PURIFY_PYTHON=$(printf %q "${PURIFY_PYTHON:-}") PURIFY_EXTRAS=tpu make_environment ''"
}

run() {
  [ $# -gt 0 ] || die "purify's own arguments come after --: -- --config FILE --workdir FOLDER"
  local again=1 code running
  on_all "cd purify && echo \$\$ >../purify.pid && exec bash launch/local.sh$(printf ' %q' "$@") --coordinator auto" &
  running=$!
  trap 'again=1; stop || true' TERM INT
  while [ -n "$again" ]; do # wait also returns when a signal came
    again='' code=0
    wait "$running" || code=$?
  done
  exit "$code"
}

case $action in
  setup) setup ;;
  run) run "${@:2}" ;;
  stop) stop ;;
  *) die "unknown action $action: setup, run or stop." ;;
esac
