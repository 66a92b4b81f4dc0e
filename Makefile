# One entry point for laptops and CI. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# Two sets that are always built as such, so that no dependency is built twice for other features.
HOST := --workspace --exclude app --exclude provisioner-probe
APP := -p app -p provisioner-probe --target x86_64-unknown-linux-musl
MUSL_CC = CC_x86_64_unknown_linux_musl="$$(scripts/musl-gcc.sh)"
PROVISIONER := target/debug/provisioner
BENCHES := $(addprefix scripts/bench-,noop.sh es-start.sh up.sh patroni.sh failover.sh rejoin.sh app.sh search.sh)
SCENARIOS := cargo test --locked $(HOST) --features provisioner/scenarios --test scenarios --

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

.PHONY: up
up: engine build ## Make sure of an engine, build, stand the dev stack up and verify it
	$(PROVISIONER) up --env dev
	@scripts/changes.sh

.PHONY: down
down: build ## Remove the dev stack; its data stays (`make down VOLUMES=1` removes it too)
	$(PROVISIONER) down --env dev $(if $(VOLUMES),--volumes --yes)

.PHONY: engine
engine: ## Make sure of a Docker engine; installs one only as root, on Debian or Ubuntu, after asking
	@scripts/engine.sh

.PHONY: build
build: ## Build the provisioner for this machine, and the app and the probe as static binaries for containers
	cargo build --locked $(HOST)
	$(MUSL_CC) cargo build --locked $(APP)

.PHONY: test
test: test-unit test-contract test-stack test-app test-drill test-smoke ## All tests, those on the real engine included

.PHONY: test-unit
test-unit: ## Everything that needs no engine
	scripts/tier.sh unit 5 $(MAKE) --no-print-directory unit

.PHONY: unit
unit:
	cargo test --locked $(HOST) --lib --bins --test cli --test plan --test execute --test manifest --test schema --test verdict
	$(MUSL_CC) cargo test --locked $(APP)

.PHONY: test-contract
test-contract: engine ## The contract that every engine passes, in memory and on the real one
	scripts/tier.sh contract 5 cargo test --locked $(HOST) --test contract --test docker --test requests --test registry

.PHONY: test-cluster
test-cluster: engine build ## Contract and whole stack on Kubernetes: on the cluster of KUBECONFIG, or one that PROVISIONER_TEST_CLUSTER boots
	scripts/tier.sh cluster-whole 20 scripts/cluster.sh $(MAKE) --no-print-directory on-cluster

.PHONY: test-cluster-core
test-cluster-core: engine build ## The same without what takes long: pods killed and edited by hand, a node cut off, the API server away, external services
	scripts/tier.sh cluster 10 scripts/cluster.sh $(MAKE) --no-print-directory on-cluster REST='$(LONG)'

LONG := --skip kubernetes_what_was_deleted --skip kubernetes_killed --skip kubernetes_writes --skip kubernetes_up_goes_on --skip kubernetes_external

.PHONY: on-cluster
on-cluster:
	cargo test --locked $(HOST) --features provisioner-kubernetes/cluster --test cluster-contract --test cluster -- --test-threads=8
	$(SCENARIOS) kubernetes_ $(REST)

.PHONY: test-stack
test-stack: engine build ## Scenarios on real stacks
	scripts/tier.sh stack 12 $(SCENARIOS) --skip smoke_ --skip failover_ --skip app_ --skip kubernetes_ --skip restricted_members_serve

.PHONY: test-restricted
test-restricted: engine build ## The whole dev stack on read-only root file systems (five minutes; no part of CI)
	$(SCENARIOS) restricted_members_serve

.PHONY: test-app
test-app: engine build build-live ## The app's own tests and its OpenAPI document, against real servers
	scripts/tier.sh app 5 $(SCENARIOS) app_ --skip kubernetes_

.PHONY: test-drill
test-drill: engine build ## Failovers of a small PostgreSQL stack, each fault and each hard case once
	scripts/tier.sh drill 8 $(SCENARIOS) failover_ --skip kubernetes_

.PHONY: test-smoke
test-smoke: engine build ## The smoke of manifests/ci.yaml, and what becomes of one that fails, is ended or killed
	scripts/tier.sh smoke 4 $(MAKE) --no-print-directory smoke smoke-scenarios

.PHONY: smoke
smoke: build ## Stand a stack of its own up, prove it, order, kill and recover, remove it; target/smoke.xml and .json
	$(PROVISIONER) smoke --env ci --junit target/smoke.xml --json-into target/smoke.json

.PHONY: smoke-scenarios
smoke-scenarios:
	$(SCENARIOS) smoke_ --skip kubernetes_

.PHONY: test-page
test-page: ## Every command of docs/getting-started.md, in order; makes and removes a stack dev
	scripts/tier.sh page 5 scripts/run-page.sh docs/getting-started.md

# Beforehand, so that the scenarios do not wait for a compiler.
.PHONY: build-live
build-live:
	$(MUSL_CC) cargo test --locked $(APP) --features app/live-tests --no-run

# Run by a scenario, which names the servers in APP_TEST_DATABASE_URL and its like.
.PHONY: app-live
app-live:
	$(MUSL_CC) cargo test --locked $(APP) --features app/live-tests

# Against the servers that app-live names.
.PHONY: test-api
test-api: ## Every operation of the app's OpenAPI document with generated requests, signed in and not (schemathesis, from PyPI)
	$(MUSL_CC) EXAMPLES=$(EXAMPLES) cargo test --locked $(APP) --features app/live-tests --test live -- --ignored --nocapture described

.PHONY: fuzz
fuzz: ## Look for texts that break a parser of the app, a minute for each of them (nightly, cargo-fuzz)
	cd fuzz && for target in $$(cargo +nightly fuzz list); do \
	    cargo +nightly fuzz run --sanitizer none $$target -- -max_total_time=60 -max_len=300; done

.PHONY: lint
lint: check-monitoring ## Formatting, clippy, fuzz targets, dependency rules, shell scripts, workflows, monitoring/
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz
	cargo deny --log-level error check bans licenses sources
	actionlint
	shellcheck -x scripts/*.sh .ci/run nginx/site/nginx.sh $(addprefix provisioner/components/recipes/,haproxy/point haproxy/start postgres/bootstrap postgres/clone postgres/common.sh postgres/member postgres/rejoin rabbitmq/member elasticsearch/node)

.PHONY: check-monitoring
check-monitoring: ## Rules, their tests, routes and probes of monitoring/ (`IMAGE=…` with the programs of an image)
	scripts/check-monitoring.sh $(IMAGE)

.PHONY: bench
bench: engine build ## The figures of docs/benchmarks.md; all of them run, and the end names those that missed a gate
	cargo build --locked --release -p provisioner
	cargo build --locked -p provisioner-drills --example judge
	$(MUSL_CC) cargo build --locked --release -p app --target x86_64-unknown-linux-musl
	@missed=(); \
	for bench in 'cargo bench --locked -p provisioner-core --bench plan' $(BENCHES) 'scripts/cluster.sh scripts/bench-kubernetes.sh'; do \
	    echo "== $$bench"; $$bench || missed+=("$$bench"); \
	done; \
	(($${#missed[@]} == 0)) || { printf 'missed a gate, or failed: %s\n' "$${missed[@]}" >&2; exit 1; }
