#!/usr/bin/env bash
# Fuzzes each target of the packages PKG... for TIME: test/fuzz.sh TIME PKG...
# TARGETS in the environment chooses among them, as a regular expression of whole names.
# With KEEP=N in the environment the N newest inputs that reached new code are
# kept in the package's testdata, from where every later run and every test begins.
#
# Go before 1.27 may fail a target with nothing but "context deadline exceeded"
# when its time is over and the machine is busy (golang/go#75804). Here that is
# the end of its time; whatever wrote a failing input is a failure.
set -euo pipefail
time=$1
shift
out=$(mktemp)
trap 'rm -f "$out"' EXIT

go=${GO:-go}
keep() { # PKG TARGET
  local from to
  from=$("$go" env GOCACHE)/fuzz/$1/$2
  to=$("$go" list -f '{{.Dir}}' "$1")/testdata/fuzz/$2
  [ -n "${KEEP:-}" ] && [ -d "$from" ] || return 0
  mkdir -p "$to"
  (cd "$from" && ls -t | head -n "$KEEP" | xargs cp -t "$to")
}

for pkg in $("$go" list "$@"); do
  for target in $("$go" test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
    [[ $target =~ ^(${TARGETS:-.*})$ ]] || continue
    echo "$pkg $target"
    if "$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 2s "$pkg" 2>&1 | tee "$out"; then
      keep "$pkg" "$target"
      continue
    fi
    if ! grep -A1 -- "^--- FAIL: $target " "$out" | grep -qx ' *context deadline exceeded' || grep -q 'Failing input' "$out"; then
      exit 1
    fi
    echo "$target: its time was over (golang/go#75804)"
    keep "$pkg" "$target"
  done
done
