#!/bin/sh
# Starts the federation's first training run, of ROUNDS rounds, and waits for its end. If there was one
# already, it says so and does nothing. A server that cannot be asked yet is asked for half a minute.
set -eu
tries=6
until found=$(fednot status --format json); do
  tries=$((tries - 1))
  [ "$tries" -gt 0 ] || exit 1
  sleep 5
done
state=$(printf '%s' "$found" |
  python -c 'import json, sys; print((json.load(sys.stdin)["run"] or {}).get("state", ""))')
if [ -n "$state" ]; then
  echo "there was a training run before ($state); for another one: docker compose run --rm operator train --rounds N"
  exit 0
fi
exec fednot train --rounds "$ROUNDS"
