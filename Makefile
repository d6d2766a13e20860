# Bare `make` lists the targets. Needs Go; interop and flights need more, see .ci/run.

GO       ?= go
FUZZTIME ?= 1m
FUZZPKGS ?= ./...
STORE_MB ?= 10000
ROUNDS   ?= 8
ROUND_TIME ?= 150s
SIMS     ?= 1000
PROMTOOL ?= promtool
HELM     ?= helm
GORELEASER ?= $(GO) run github.com/goreleaser/goreleaser/v2@v2.12.7

.DEFAULT_GOAL := help
.PHONY: help build test race lint proto proto-check fuzz crash chaos cluster interop dashboard alerts release-check helm image upgrade flights orders bench bench-smoke bench-peers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/gantry, static
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/gantry ./cmd/gantry

test: lint ## everything that needs Go alone: lint, all tests under the race detector, the contract, a smoke of the benchmark
	$(GO) test -race -timeout 9m ./...
	$(GO) test -count=1 -run 'PowerLossInside|WhateverHappens' ./broker
	$(GO) test -count=1 -run Simulation ./broker/replica -seed 1 -sims 1000
	cd test/descriptors && $(GO) test ./...
	cd bench/peers && $(GO) vet ./... && $(GO) test ./...
	$(MAKE) --no-print-directory bench-smoke

race: ## all tests under the race detector, caches ignored
	$(GO) test -race -count=1 -timeout 30m ./...

lint: ## gofmt, go vet, import rules
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt these:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	@# The other modules have this one as it is here: they must need what it needs.
	@for mod in $$(git ls-files '*/go.mod'); do (cd $$(dirname $$mod) && $(GO) list -test -deps ./... >/dev/null) || { echo "go mod tidy in $$(dirname $$mod)"; exit 1; }; done
	$(GO) test -count=1 ./internal/archtest

proto: ## regenerate the Go code of proto/
	proto/generate.sh

proto-check: ## fail when proto/ was changed and not regenerated
	@before=$$(cat proto/*/*.pb.go | cksum); proto/generate.sh; \
	if [ "$$before" != "$$(cat proto/*/*.pb.go | cksum)" ]; then echo "proto/ was not up to date: commit what make proto wrote"; exit 1; fi

fuzz: ## fuzz each decoder, and the running server, for FUZZTIME (1m); FUZZTARGETS chooses
	GO=$(GO) TARGETS='$(FUZZTARGETS)' test/fuzz.sh $(FUZZTIME) $(FUZZPKGS)

crash: ## power loss at every write, more often than in test; then ROUNDS (8) minutes of kill -9 under load, judged by what clients saw
	$(GO) test -count=1 -timeout 60m -run PowerLoss ./commitlog -images 4
	$(GO) test -count=5 -timeout 60m -run 'Crash|FailedCall' ./consumequeue
	$(GO) test -count=5 -timeout 60m -run PowerLossInside ./broker -crash-points 0
	$(GO) test -count=1 -v -timeout 120m ./test/history -rounds $(ROUNDS) -round-time 60s

chaos: ROUNDS = 3
chaos: ## SIMS (1000) new simulations of clusters; then three nodes under faults for ROUNDS (3) times ROUND_TIME (150s), judged by what clients saw, the official ones too
	test/interop/setup.sh
	$(GO) test -count=1 -run Simulation ./broker/replica -sims $(SIMS)
	$(GO) test -count=1 -v -timeout 180m -run NodesFail ./test/history -cluster-rounds $(ROUNDS) -cluster-time $(ROUND_TIME) -official ../interop/clients

cluster: build ## three nodes on this machine until Ctrl-C, in ./gantry-cluster
	@trap 'kill 0' INT TERM EXIT; mkdir -p gantry-cluster; \
	bin/gantry serve --node n1 --bootstrap --data gantry-cluster/n1 & \
	for i in 2 3; do \
	  bin/gantry serve --node n$$i --join 127.0.0.1:8083 --data gantry-cluster/n$$i --listen 127.0.0.1:$${i}8081 --http 127.0.0.1:$${i}8082 --peer 127.0.0.1:$${i}8083 & \
	done; wait

interop: ## official clients in Go, Java, Python and Node.js against the real binary
	test/interop/run.sh

dashboard: ## the dashboard in chromium: every page clicked through with real traffic (SHOTS=docs/screenshots keeps the pictures)
	cd test/dashboard && $(GO) vet ./... && $(GO) test -count=1 -timeout 3m ./... $(if $(SHOTS),-shots $(abspath $(SHOTS)))

alerts: ## the alert rules and their tests, by Prometheus's own promtool (PROMTOOL)
	$(PROMTOOL) check rules deploy/prometheus/alerts.yaml
	cd deploy/prometheus && $(PROMTOOL) test rules alerts_test.yml

release-check: ## what goreleaser makes of .goreleaser.yaml (GORELEASER)
	$(GORELEASER) check

helm: build ## the chart by HELM's own lint and template, and its settings by the broker
	HELM=$(HELM) GANTRY=$(abspath bin/gantry) deploy/helm/check.sh

image: build ## the container image gantry of bin/gantry by buildah, without a registry; and a broker that asks who calls, in a container of it
	deploy/image.sh

upgrade: ## a data directory, and then a cluster under load, from the binary of OLD (a commit) to this one
	test/upgrade/run.sh $(OLD)

flights: ## the flights example: 336,776 messages through an official client, a kill -9 in the middle, SQL filters checked against SQLite
	examples/flights/run.sh

orders: ## the orders example: transactions, delay, SQL, order and dead letters with an official client
	examples/orders/run.sh

bench: ## measure and rewrite docs/benchmarks.md (about 20 minutes, STORE_MB of disk)
	$(GO) run ./test/bench -store-mb $(STORE_MB) -out docs/benchmarks.md

bench-smoke: ## run the benchmark with tiny sizes, for its errors only
	$(GO) run ./test/bench -smoke >/dev/null

bench-peers: ## measure Kafka and RocketMQ beside Gantry and rewrite their part of docs/benchmarks.md (about an hour; PEERS: flags, like -quick)
	cd bench/peers && $(GO) run . $(PEERS)

.PHONY: overload
overload: ## offer once, twice and ten times what the broker can store, through both doors: goodput, refusals, memory (about 3 minutes)
	$(GO) run ./test/bench -only overload -seconds 6
