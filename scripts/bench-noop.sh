#!/usr/bin/env bash
# No-op `up` of the provisioner against no-op `up -d --wait` of Docker Compose v5.5.0: same images, same number of
# services, volumes and published ports, one engine, one run, in turn. Prints medians and the ratio; ends with 1 when the gate
# was not reached.
#
# Compose's services run `sleep`, without health checks, which spares it the waiting; the provisioner's are real.
# Needs go (Compose is built from the Go module proxy) and an engine. BENCH_RUNS sets the pairs (default 15).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/bench-lib.sh

runs=${BENCH_RUNS:-15}
stack=bench-noop
work=target/bench-noop
provisioner=target/release/provisioner
compose=$PWD/$work/compose-v5.5.0/compose
mkdir -p "$work"

build_compose() {
	[[ -x $compose ]] && return
	local module
	module=$(dirname "$compose")
	mkdir -p "$module"
	(
		cd "$module"
		printf 'module bench\n\ngo 1.24\n\ntool github.com/docker/compose/v5/cmd\n\nrequire github.com/docker/compose/v5 v5.5.0\n' >go.mod
		go mod tidy -e >/dev/null 2>&1 || true
		go build -o compose github.com/docker/compose/v5/cmd
	)
}

# The provisioner's own containers, described to Compose.
describe() {
	printf 'name: %s\nservices:\n' "$stack-compose"
	docker ps --filter "label=provisioner.stack=$stack" --format '{{.Names}} {{.Image}}' | sort | while read -r name image; do
		printf '  %s:\n    image: %s\n    entrypoint: ["sleep", "86400"]\n    ports: ["127.0.0.1::80"]\n' "${name#"$stack-"}" "$image"
		printf '    volumes: ["%s:/bench"]\n    environment: {A: b}\n' "${name#"$stack-"}"
	done
	printf 'volumes:\n'
	docker ps --filter "label=provisioner.stack=$stack" --format '{{.Names}}' | sort | sed "s/^$stack-/  /; s/\$/: {}/"
}

up_provisioner() { "$provisioner" up --env dev --name "$stack" --no-verify --progress quiet >/dev/null; }
up_compose() { "$compose" -f "$work/compose.yaml" up -d --wait >/dev/null 2>&1; }

clean() {
	"$compose" -f "$work/compose.yaml" down -v -t 0 >/dev/null 2>&1 || true
	"$provisioner" down --env dev --name "$stack" --volumes --yes --progress quiet >/dev/null || true
}

cargo build --locked --release -p provisioner
build_compose
trap clean EXIT
up_provisioner
describe >"$work/compose.yaml"
up_compose
up_provisioner
: >"$work/a"
: >"$work/b"
for _ in $(seq "$runs"); do
	milliseconds up_provisioner >>"$work/a"
	milliseconds up_compose >>"$work/b"
done
printf 'no-op up, %s pairs, %s services\n' "$runs" "$(grep -c image: "$work/compose.yaml")"
spread 'provisioner up --no-verify' "$work/a"
spread 'compose v5.5.0 up -d --wait' "$work/b"
gate 'ratio of medians' "$(jq -n "$(middle <"$work/a") / $(middle <"$work/b")")" at-most 0.3
gates_reached
