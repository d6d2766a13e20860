#!/usr/bin/env bash
# image.sh: the image gantry of bin/gantry by buildah: the Dockerfile's last stage, with a directory in the place of its
# first, so no registry is asked. Then a container of it, in which a broker asks who calls: it must run as the image's
# user, say that it is healthy to who has no name, and tell that one nothing else. buildah takes BUILDAH_ISOLATION
# (chroot where it may make no namespaces) and BUILDAH_RUNTIME (crun, runc) from the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
tmp=$(mktemp -d "${TMPDIR:-/tmp}/gantry-image.XXXXXX")
container= broker=
finish() {
  [ -z "$broker" ] || { kill "$broker" 2>/dev/null || true; wait "$broker" || true; }
  [ -z "$container" ] || buildah rm "$container" > /dev/null
  rm -rf "$tmp"
}
trap finish EXIT
fail() { echo "FAILED: $*"; cat "$tmp/log"; exit 1; }

mkdir -p "$tmp/build/out"
install -m 0755 bin/gantry "$tmp/build/out/gantry"
mkdir -m 0700 "$tmp/build/out/private"
# OCI's own format has no health checks.
buildah build --format docker --build-context build="$tmp/build" -f deploy/Dockerfile -t gantry .

container=$(buildah from --pull-never gantry)
inside() { buildah run --network host "$container" -- /gantry "$@"; }
inside serve --listen 127.0.0.1:0 --http 127.0.0.1:0 --auth --auth-key /keys/key --auth-admin /keys/admin > "$tmp/out" 2> "$tmp/log" &
broker=$!
for _ in $(seq 100); do
  server=$(awk '$1 == "clients" { print $2 }' "$tmp/out")
  [ -z "$server" ] || break
  sleep 0.1
done
[ -n "$server" ] || fail "the broker does not start"
inside health --server "$server" || fail "it is not healthy"
inside topic list --server "$server" > "$tmp/refused" 2>&1 && fail "it lists topics for nobody"
grep -q 'name a user' "$tmp/refused" || { cat "$tmp/refused"; fail "it says something else"; }
inside topic create first --server "$server" --user admin --secret-file /keys/admin || fail "the first user cannot call"
root=$(buildah mount "$container")
[ "$(stat -c %u:%a "$root/keys/admin")" = 65532:600 ] || fail "it does not run as the image's user"
echo "the image gantry is built and runs"
