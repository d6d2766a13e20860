#!/usr/bin/env bash
# Builds gantry and this program, and sends every flight of the full data set through a broker that is killed and restarted on the way;
# then consumes them through the SQL filters of queries.txt, which must let through as many as SQLite counts.
# Further arguments go to the program, e.g. --consumers 4.
set -euo pipefail
cd "$(dirname "$0")"
file="$(./fetch.sh)"
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT
(cd ../.. && go build -o "$tmp/gantry" ./cmd/gantry)
go build -o "$tmp/flights" .
python3 answers.py "$file" queries.txt >"$tmp/answers.json"
"$tmp/flights" --file "$file" --answers "$tmp/answers.json" --gantry "$tmp/gantry" --data "$tmp/data" --server 127.0.0.1:0 --kill --invisible 30s "$@"
