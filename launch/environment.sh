# Sourced by the launchers: the Python they run. Sets $root; make_environment and use_environment set $python.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" # purify is found from any folder, installed or not

say() { printf '%s\n' "$*" >&2; }

die() {
  say "${0##*/}: $*"
  exit 2
}

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; }

# Sets $python to the first interpreter of a supported version: PURIFY_PYTHON, else what is on the PATH.
find_python() {
  if [ -n "${PURIFY_PYTHON:-}" ]; then
    suits "$PURIFY_PYTHON" || die "PURIFY_PYTHON=$PURIFY_PYTHON is not Python 3.11, 3.12, 3.13 or 3.14."
    python=$PURIFY_PYTHON
    return
  fi
  for python in python3.11 python3.12 python3.13 python3.14 python3 python; do
    if suits "$python"; then return; fi
  done
  die "needs Python 3.11, 3.12, 3.13 or 3.14; python3 here is $(python3 --version 2>/dev/null || echo missing)." \
    "Install one, or name it: PURIFY_PYTHON=/path/to/python3.11 $0"
}

# make_environment EXTRAS: an environment of its own in .venv (or PURIFY_VENV), with the pinned packages, purify itself and
# these extras, plus those of PURIFY_EXTRAS (cuda12, cuda13, tpu, ...). Does nothing when all is there.
make_environment() {
  local venv=${PURIFY_VENV:-$root/.venv} extras pins sum installed
  extras=$1${PURIFY_EXTRAS:+${1:+,}$PURIFY_EXTRAS}
  pins=$root/third_party/constraints.txt
  if "$venv/bin/python" -c '' 2>/dev/null; then
    python=$venv/bin/python
    suits "$python" || die "$venv holds $("$python" --version), which purify does not support. Remove it and start again."
  else
    find_python
    say "making $venv with $("$python" --version)"
    if [ -e "$venv/pyvenv.cfg" ]; then rm -rf "$venv"; fi # its Python is gone
    "$python" -m venv "$venv" || die "$python cannot make an environment (its message is above)." \
      "On Debian and Ubuntu: apt install python3-venv. Or name another one: PURIFY_PYTHON=/path/to/python3.11 $0"
    python=$venv/bin/python
  fi
  "$python" -c 'import pip' 2>/dev/null || "$python" -m ensurepip >/dev/null || die "$venv has no pip. Remove it and start again."
  sum=$(cat "$root/setup.py" "$pins" | cksum | tr -d ' ')
  installed=$venv/purify-$sum-$extras
  if [ -e "$installed" ]; then return; fi
  say "installing purify${extras:+[$extras]} in $venv: jax, flax and what they need, over 1 GB on disk." \
    "The first time this takes some minutes, in which pip prints nothing."
  "$python" -m pip install --quiet --disable-pip-version-check -c "$pins" -e "$root${extras:+[$extras]}" ||
    die "the installation failed (pip's message is above). If this was the network, start the same command again." \
      "With an environment that has the packages of setup.py already: activate it and add --no-venv."
  find "$venv" -maxdepth 1 -name 'purify-*' ! -name "purify-$sum-*" -delete
  : >"$installed"
}

# Sets $python to the one at hand: PURIFY_PYTHON, the activated environment's, .venv's, python3. Installs nothing.
use_environment() {
  if [ -n "${PURIFY_PYTHON:-}" ]; then
    python=$PURIFY_PYTHON
  elif [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    python=python
  elif [ -x "${PURIFY_VENV:-$root/.venv}/bin/python" ]; then
    python=${PURIFY_VENV:-$root/.venv}/bin/python
  else
    python=python3
  fi
  suits "$python" || die "$python is $("$python" --version 2>&1 | head -n 1); purify needs Python 3.11, 3.12, 3.13 or 3.14."
  local missing
  missing=$("$python" -c 'import importlib.util as u; print(*(n for n in ("jax", "flax", "grain", "orbax") if not u.find_spec(n)))')
  [ -z "$missing" ] || die "$python has no ${missing// /, }. ./launch/quickstart.sh makes an environment that has;" \
    "or, in your own: pip install -e '$root'"
}

# continue_later COMMAND...: runs it in a Slurm job; exit code 75 (stopped, everything saved) puts the job back into the queue.
continue_later() {
  local code=0
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi # srun no longer takes it from the job
  "$@" || code=$?
  if [ "$code" -eq 75 ]; then
    say "job $SLURM_JOB_ID stopped with everything saved; back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || say "Slurm refused; submit the same command again, it goes on from here"
  fi
  exit "$code"
}
