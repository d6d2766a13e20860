#!/usr/bin/env bash
# run.sh OLD: what docs/operations.md says of upgrades, from the binary of the commit OLD to
# that of this tree: first a broker that is alone, with messages in every state, then three
# nodes one after the other, the leader last, while a client sends and receives.
set -euo pipefail
old=${1:?a commit to upgrade from}
top=$(git rev-parse --show-toplevel)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/gantry-upgrade.XXXXXX")
pids=()
finish() { for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$tmp"; }
trap finish EXIT
fail() { echo "FAILED: $*"; tail -n 5 "$tmp"/*.log; exit 1; }

mkdir "$tmp/src"
git -C "$top" archive "$old" | tar -x -C "$tmp/src"
(cd "$tmp/src" && CGO_ENABLED=0 go build -o "$tmp/old" ./cmd/gantry)
(cd "$top" && CGO_ENABLED=0 go build -o "$tmp/new" ./cmd/gantry)

base=${PORT:-27000}
listen() { echo "127.0.0.1:$((base + $1 * 10 + 1))"; }
# start NUMBER BINARY DIR [FLAGS]: waits until it is ready.
start() {
  local n=$1 binary=$2 dir=$3; shift 3
  "$binary" serve --data "$dir" --listen "$(listen "$n")" --http "127.0.0.1:$((base + n * 10 + 2))" --segment-size 4MiB --log-level warn "$@" >> "$tmp/$n.log" 2>&1 &
  pids[n]=$!
  for _ in $(seq 600); do
    curl -fs "http://127.0.0.1:$((base + n * 10 + 2))/readyz" > /dev/null && return
    kill -0 "${pids[n]}" 2>/dev/null || fail "node $n ended"
    sleep 0.1
  done
  fail "node $n is not ready"
}
stop() { kill "${pids[$1]}"; wait "${pids[$1]}" || fail "node $1 did not end well"; }

echo "== alone"
export GANTRY_SERVER=$(listen 0)
start 0 "$tmp/old" "$tmp/alone"
g="$tmp/old"
$g topic create orders --queues 1 > /dev/null
$g topic create later --type delay --queues 1 > /dev/null
$g group create dead --max-attempts 1 > /dev/null
$g send orders one two three --tag A --key k --property p=1 > /dev/null
$g send later soon --delay 20s > /dev/null
$g send later in-a-day --delay 24h > /dev/null
$g receive orders --group half --count 2 > /dev/null
$g receive orders --group dead --no-ack > /dev/null
$g group skip dead orders/0/0 > /dev/null
states() { "$1" topic list --json; "$1" message list orders --json; "$1" dlq list dead --json; "$1" timer list later --json; }
states "$g" > "$tmp/before"
stop 0
"$tmp/new" log check "$tmp/alone" | tail -n 1
start 0 "$tmp/new" "$tmp/alone"
g="$tmp/new"
states "$g" > "$tmp/after"
diff "$tmp/before" "$tmp/after" || fail "what is shown of the same data differs"
[ "$($g receive orders --group half)" = "orders/0/2 tag=A key=k p=1  three" ] || fail "the group is not where it was"
$g receive later --group l --wait 40s > /dev/null || fail "the delayed message did not come"
[ "$($g dlq redrive dead --all)" != "" ] && [ "$($g receive orders --group dead --count 3 | wc -l)" = 3 ] || fail "the dead letter did not come back"
$g doctor > /dev/null || true
stop 0

echo "== three nodes"
node() { local n=$1 binary=$2; shift 2; start "$n" "$binary" "$tmp/n$n" --node "n$n" --peer "127.0.0.1:$((base + n * 10 + 3))" "$@"; }
node 1 "$tmp/old" --bootstrap
node 2 "$tmp/old" --join "127.0.0.1:$((base + 13))"
node 3 "$tmp/old" --join "127.0.0.1:$((base + 13))"
export GANTRY_SERVER=$(listen 1)
for _ in $(seq 100); do [ "$($g cluster status | grep -c ' follower ')" = 2 ] && break; sleep 0.2; done
$g topic create orders --queues 1 > /dev/null
# It sends one after the other and notes what was answered; it may have to repeat.
send() {
  local i=0 n
  while [ ! -e "$tmp/stop" ]; do
    i=$((i + 1))
    while ! "$tmp/new" send orders "$i" --server "$(listen $((i % 3 + 1)))" > /dev/null 2>&1; do sleep 0.1; done
    echo "$i" >> "$tmp/sent"
  done
}
send & sender=$!
sleep 3
caught_up() {
  for _ in $(seq 300); do
    $g cluster status --server "$(listen "$1")" > "$tmp/status" 2>/dev/null && [ "$(grep -c ' 0 behind' "$tmp/status")" = 3 ] && return
    sleep 0.1
  done
  fail "not all are level: $(cat "$tmp/status")"
}
leader() { "$g" cluster status --server "$(listen "$1")" | awk '$2 == "leader" { print substr($1, 2) }'; }
first=$(leader 1)
for n in 1 2 3; do
  [ "$n" = "$first" ] && continue
  stop "$n"; sleep 1; node "$n" "$tmp/new"; caught_up "$n"
  echo "n$n is new, $(wc -l < "$tmp/sent") messages sent"
done
other=$((first % 3 + 1))
$g cluster transfer "n$other" --server "$(listen "$other")"
stop "$first"; sleep 1; node "$first" "$tmp/new"; caught_up "$other"
echo "n$first is new, $(wc -l < "$tmp/sent") messages sent"
sleep 2; touch "$tmp/stop"; wait "$sender"
$g cluster digest --server "$(listen "$other")" > /dev/null || fail "nodes differ"
$g receive orders --group g --count 0 --server "$(listen "$other")" | awk '{ print $NF }' | sort -nu > "$tmp/got"
sort -nu "$tmp/sent" | comm -23 <(sort "$tmp/sent") <(sort "$tmp/got") > "$tmp/lost"
[ ! -s "$tmp/lost" ] || fail "sent and answered, not received: $(head "$tmp/lost")"
echo "no acknowledged message of $(wc -l < "$tmp/sent") is lost, and all nodes have the same state"
