#!/usr/bin/env bash
# Installs the official clients with each language's ordinary package client. Does nothing that is already done.
set -euo pipefail
cd "$(dirname "$0")/clients"

(cd go && go mod download)

if ! cmp -s python/requirements.txt python/.venv/installed.txt; then
  rm -rf python/.venv
  python3 -m venv python/.venv
  python/.venv/bin/pip install --quiet --disable-pip-version-check -r python/requirements.txt
  cp python/requirements.txt python/.venv/installed.txt
fi

if ! cmp -s node/package-lock.json node/node_modules/installed.json; then
  (cd node && npm ci --silent --no-audit --no-fund --ignore-scripts)
  cp node/package-lock.json node/node_modules/installed.json
fi

# Offline first: once Maven has resolved everything, it needs no network.
(cd java && { mvn -o -q -B compile >/dev/null 2>&1 || mvn -q -B compile; })
