#!/usr/bin/env bash
# Runs purify as several processes that work as one: on this machine, or one per host over ssh.
#
#   launch/hosts.sh -n 2 [--gpus K] -- --config cifar10 --workdir runs/cifar10
#   launch/hosts.sh --hosts a,b,c [--dir purify] [--port 8476] -- --config cifar10 --workdir /shared/cifar10
#
# -n N         N processes here; --gpus K gives each K GPUs of its own.
# --hosts A,B  one process per host, with its devices; the first is the coordinator. The work folder must be on a disk that
#              all of them see; --dir is the clone on each host (default: where this one is), with an environment in .venv.
# --grace S    seconds a process has to save when it is asked to stop (default 120).
#
# SIGTERM, SIGINT and the end of any process with an error stop all of them. Exit code: the first that is not 0 (75: stopped
# with everything saved).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

count=0 hosts=() gpus=0 port= grace=120 folder=$root
while [ $# -gt 0 ]; do
  [ "$1" = -- ] && shift && break
  case $1 in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;; esac
  [ $# -gt 1 ] || die "$1 needs a value; see $0 --help"
  case $1 in
    -n) count=$2 ;;
    --hosts) IFS=, read -r -a hosts <<<"$2" ;;
    --gpus) gpus=$2 ;;
    --dir) folder=$2 ;;
    --port) port=$2 ;;
    --grace) grace=$2 ;;
    *) die "unknown option $1; purify's own arguments come after --. See $0 --help" ;;
  esac
  shift 2
done
if [ ${#hosts[@]} -gt 0 ]; then
  [ "$count" = 0 ] && [ "$gpus" = 0 ] || die 'give either -n (with --gpus) or --hosts.'
  count=${#hosts[@]} address=${hosts[0]##*@}:${port:-8476}
else
  [[ $count =~ ^[1-9][0-9]*$ && $gpus =~ ^[0-9]+$ ]] || die "-n $count --gpus $gpus: give a number of processes (1 or more) or --hosts."
  port=${port:-$((20000 + RANDOM % 10000))} address=127.0.0.1:$port
fi

# start NUMBER ARGS...: process NUMBER, on a leash (leashed.sh) that ends with file 9.
start() {
  local number=$1 own=() place=$root
  shift
  [ ${#hosts[@]} -eq 0 ] || place=.
  [ "$gpus" -eq 0 ] || own=(env "CUDA_VISIBLE_DEVICES=$(seq -s, $((number * gpus)) $((number * gpus + gpus - 1)))")
  local command=(bash "$place/launch/leashed.sh" "$grace" ${own[@]+"${own[@]}"} bash "$place/launch/local.sh" "$@"
    --coordinator "$address" --hosts "$count" --host-id "$number")
  if [ ${#hosts[@]} -gt 0 ]; then
    command=(ssh -o BatchMode=yes "${hosts[number]}" "cd $(printf %q "$folder") && exec$(printf ' %q' "${command[@]}")")
  fi
  "${command[@]}" <&8 8<&- 9>&- &
  running[number]=$!
}

leash=$(mktemp -u)
mkfifo "$leash"
exec 9<>"$leash" 8<"$leash"
rm "$leash"
trap 'exec 9>&-' TERM INT HUP # the other ends see it, whatever becomes of this script

running=() code=0
set -m # process groups of their own: the terminal's Ctrl-C comes here only
for ((number = 0; number < count; number++)); do start "$number" "$@"; done
set +m
exec 8<&-
while [ ${#running[@]} -gt 0 ]; do
  for number in "${!running[@]}"; do
    if kill -0 "${running[number]}" 2>/dev/null; then continue; fi
    ended=0
    wait "${running[number]}" || ended=$?
    unset "running[number]"
    if [ "$ended" -ne 0 ] && [ "$code" -eq 0 ]; then
      code=$ended
      [ "$code" -eq 75 ] || [ ${#running[@]} -eq 0 ] || say "process $number${hosts[number]:+ on ${hosts[number]}} ended with exit code $code; stopping the others"
      exec 9>&-
    fi
  done
  sleep 0.2 || true
done
exit "$code"
