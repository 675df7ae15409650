#!/usr/bin/env bash
# Checks the code: ruff, pyright, pytest, in an environment of its own (.venv). Arguments go to pytest.
#
#   ./launch/test.sh [--no-venv] [--all] [tests/attacks -k patch ...]
#
# Every room of the program and every system end to end, in eight minutes on two cores. --all adds the tests marked
# `long`: runs that are killed and go on, points of every config, networks against other libraries, thousands of broken
# files, the examples of the documentation, and slower tests of lines that quicker ones run too; and builds the site. Of the sweeps it runs samples; with PURIFY_ALL_POINTS=1
# every point of the three studies (1,500 more tests).
# The tests run whatever ruff and pyright say; the exit code is 0 only if all is well.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

venv=1 which=(-m 'not long') site=
while :; do
  case "${1:-}" in
    --no-venv) venv= ;;
    --all) which=() site=1 ;;
    *) break ;;
  esac
  shift
done
if [ -n "$venv" ]; then make_environment dev; else use_environment; fi
cd "$root"

failed=
check() {
  say "== $1"
  "$python" -m "${@:2}" || failed="$failed${failed:+, }$1"
}
check 'ruff check' ruff check
check 'ruff format' ruff format --check
check pyright pyright --threads 2 --pythonpath "$(command -v "$python")"
if [ -n "$site" ]; then
  NO_MKDOCS_2_WARNING=1 check 'the site' mkdocs build --strict --quiet
fi
code=0
"$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder ${which[@]+"${which[@]}"} "$@" || code=$?
if [ "$code" -eq 0 ] && [ -n "$failed" ]; then # pytest's closing line stays the last one otherwise
  say "the tests passed, but not: $failed (see above)"
  code=1
fi
exit "$code"
