#!/usr/bin/env bash
# Builds gantry and this program, runs a broker on free ports with its data in a temporary directory, and takes the tour.
set -euo pipefail
cd "$(dirname "$0")"
tmp="$(mktemp -d)"
broker=
finish() {
	status=$?
	if [ -n "$broker" ]; then
		kill "$broker" 2>/dev/null || true
		wait "$broker" 2>/dev/null || true
	fi
	if [ $status != 0 ] && [ -s "$tmp/serve.log" ]; then
		echo "--- the broker's log" >&2
		tail -n 40 "$tmp/serve.log" >&2
	fi
	rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 1' INT TERM
(cd ../.. && go build -o "$tmp/gantry" ./cmd/gantry)
go build -o "$tmp/orders" .
export PATH="$tmp:$PATH"

gantry serve --data "$tmp/data" --listen 127.0.0.1:0 --http 127.0.0.1:0 >"$tmp/serve.out" 2>"$tmp/serve.log" &
broker=$!
for _ in $(seq 300); do
	grep -q '^ready' "$tmp/serve.out" && break
	kill -0 "$broker" 2>/dev/null || break
	sleep 0.1
done
GANTRY_SERVER="$(awk '$1 == "clients" { print $2 }' "$tmp/serve.out")"
[ -n "$GANTRY_SERVER" ] || { echo "the broker did not start" >&2; exit 1; }
export GANTRY_SERVER

gantry topic create orders --type transaction
gantry topic create payment-timeouts --type delay
gantry topic create parcels --type fifo
gantry group create checkout
gantry group create fulfilment-eu
gantry group create cancellations
gantry group create warehouse --fifo --max-attempts 3 --retry-steps 1s
gantry group create auditors

TMPDIR="$tmp" timeout 90 orders
