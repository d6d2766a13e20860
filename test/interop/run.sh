#!/usr/bin/env bash
# Runs the official Go, Java, Python and Node.js clients against a freshly built gantry. Arguments go to `go test`, e.g. -run TestFIFO.
set -euo pipefail
cd "$(dirname "$0")"
./setup.sh
exec go test -tags interop -count=1 -timeout 15m -v "$@" .
