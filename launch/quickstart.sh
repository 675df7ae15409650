#!/usr/bin/env bash
# From a fresh clone to the first report: makes an environment in .venv, runs the main job on the embedded digits,
# or on photographs of yours: source=arrays:DIR, source=imagefolder:DIR.
#
#   ./launch/quickstart.sh [--no-venv] [words of the config quickstart ...] [flags of purify run ...]
#   ./launch/quickstart.sh attack=blended rate=0.05 --config.defense.vary.start=200
#
# Starting it again reuses the environment and all finished stages. --no-venv uses the activated environment as it is.
# PURIFY_PYTHON chooses the interpreter, PURIFY_EXTRAS=cuda12 (or cuda13, tpu) the accelerator, PURIFY_VENV another folder.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

own=1 words=
while [ $# -gt 0 ]; do
  case $1 in
    --no-venv) own= ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;;
    -*) break ;;
    *) words=$words${words:+,}$1 ;;
  esac
  shift
done
if [ -n "$own" ]; then make_environment ''; else use_environment; fi
exec "$python" -m purify run --config "$root/configs/quickstart.py${words:+:$words}" --workdir "$root/runs/quickstart" "$@"
