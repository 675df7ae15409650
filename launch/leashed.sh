#!/usr/bin/env bash
# leashed.sh GRACE_S COMMAND ... : runs a command that is asked to stop (SIGTERM) when standard input ends, and killed GRACE_S
# seconds after. That is how hosts.sh stops what it started, also on other machines, and also when it dies itself.
set -um # -m: the command gets a process group of its own, out of the terminal's Ctrl-C and all gone with one kill

grace=$1
shift
exec 3<&0
"$@" 3<&- </dev/null &
child=$!
(
  while read -r _; do :; done
  kill -TERM "$child" 2>/dev/null
  sleep "$grace"
  echo "did not stop within $grace s; killing it" >&2
  kill -KILL -- "-$child"
) <&3 >/dev/null &
leash=$!
exec 3<&-
trap 'again=1; kill -TERM "$child" 2>/dev/null' TERM INT HUP

again=1
while [ -n "$again" ]; do # wait also returns when a signal came
  again=
  wait "$child" 2>/dev/null
  code=$?
done
{ kill -KILL -- "-$leash" && wait "$leash"; } 2>/dev/null
exit "$code"
