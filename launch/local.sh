#!/usr/bin/env bash
# Runs purify on this machine, on all its devices, in the environment at hand.
#
#   ./launch/local.sh --config quickstart:attack=blended --workdir runs/blended
#
# Exit code: 0 done, 2 bad input, 75 stopped with everything saved (the same command goes on).
# PURIFY_COMMAND stands in for `python -m purify`, for containers: PURIFY_COMMAND='apptainer exec purify.sif python -m purify'.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [ -n "${PURIFY_COMMAND:-}" ]; then
  # shellcheck disable=SC2086  # words are meant to split
  exec $PURIFY_COMMAND run "$@"
fi
use_environment
exec "$python" -m purify run "$@"
