#!/bin/sh
# The consumer under test is the real one: `sandpost run` needs no bus.
set -eu
cd "$(dirname "$0")"
state=$(mktemp -u)
trap 'rm -f "$state"' EXIT
sandpost run {{name}}.wat events/order.json --state "$state" > /dev/null
sandpost run {{name}}.wat events/order.json --state "$state" --json | grep -q '"topic":"invoice.due"'
if echo '{}' | sandpost run {{name}}.wat - > /dev/null; then
  echo "an order without a key was taken" >&2
  exit 1
fi
echo "3 tests passed"
