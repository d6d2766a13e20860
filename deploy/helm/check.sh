#!/usr/bin/env bash
# check.sh: the chart is well formed, and the broker takes the settings that it gives each
# pod, at the installation and after. HELM names helm, GANTRY the broker.
set -euo pipefail
cd "$(dirname "$0")"
helm=${HELM:-helm} gantry=${GANTRY:-gantry}
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
values=(--namespace mq --kube-version 1.30.0 --set peerCertificates=peers)
all=(--set shards=3 --set auth.secret=auth --set tls.secret=tls --set serviceMonitor.enabled=true --set serviceMonitor.labels.team=mq)

"$helm" lint --strict gantry --set peerCertificates=peers
for more in "" "--is-upgrade"; do
  "$helm" template gantry gantry "${values[@]}" "${all[@]}" $more > "$tmp/all.yaml"
  "$helm" template gantry gantry "${values[@]}" $more > "$tmp/plain.yaml"
  for rendered in "$tmp/all.yaml" "$tmp/plain.yaml"; do
    awk -v dir="$tmp" '
      /^kind:/ { in_map = $2 == "ConfigMap" }
      in_map && /^  [a-z0-9-]+\.yaml: \|$/ { file = dir "/" substr($1, 1, length($1) - 1); printf "" > file; next }
      in_map && file && /^    / { print substr($0, 5) > file; next }
      { if (file) close(file); file = "" }' "$rendered"
    for i in 0 1 2; do
      "$gantry" config show --config "$tmp/gantry-$i.yaml" --json | grep -q "\"gantry-$i\"" || { echo "the settings of gantry-$i are not taken"; exit 1; }
    done
    if [ "$rendered" = "$tmp/all.yaml" ]; then
      for port in 8091 8101 8093 8103; do
        [ "$(grep -c "containerPort: $port}" "$rendered")" = 1 ] && grep -q "port: $port," "$rendered" || { echo "port $port of a shard is not open"; exit 1; }
      done
    fi
    if [ -n "$more" ]; then
      ! grep -q '^bootstrap:' "$tmp"/gantry-?.yaml || { echo "after an upgrade a pod begins a cluster"; exit 1; }
    else
      [ "$(cat "$tmp"/gantry-?.yaml | grep -c '^bootstrap: true$')" = 1 ] || { echo "not one pod begins the cluster"; exit 1; }
    fi
  done
done
! "$helm" template gantry gantry --kube-version 1.30.0 > /dev/null 2> "$tmp/error" || { echo "a chart without certificates is taken"; exit 1; }
grep -q peerCertificates "$tmp/error"
echo "the chart is well formed"
