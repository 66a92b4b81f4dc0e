# One entry point for laptops and CI. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MUSL := x86_64-unknown-linux-musl
PROVISIONER := target/debug/provisioner

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
build: ## Build the provisioner for this machine and the app as a static binary for containers
	cargo build --locked --workspace --exclude app
	CC_x86_64_unknown_linux_musl="$$(scripts/musl-gcc.sh)" cargo build --locked -p app --target $(MUSL)

.PHONY: test
test: test-unit test-contract test-stack ## All tests, those on the real engine included

.PHONY: test-unit
test-unit: ## Everything that needs no engine
	scripts/tier.sh unit 5 cargo test --locked --workspace --lib --bins --test plan --test execute --test manifest --test cli --test components

.PHONY: test-contract
test-contract: engine ## The contract that every engine passes, on the real one
	scripts/tier.sh contract 5 cargo test --locked -p provisioner-docker --tests

.PHONY: test-stack
test-stack: engine build ## Scenarios on real stacks
	scripts/tier.sh stack 12 cargo test --locked -p provisioner --features scenarios --test scenarios -- --test-threads=1

.PHONY: lint
lint: ## Formatting, clippy, dependency rules, shell scripts
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo deny --log-level error check bans licenses sources
	shellcheck scripts/*.sh .ci/run

.PHONY: bench
bench: engine ## The figures of docs/benchmarks.md
	cargo bench --locked -p provisioner-core --bench plan
	scripts/bench-noop.sh
