#!/usr/bin/env bash
# No-op `up` on Kubernetes against no-op `helm upgrade` of a chart of the same objects and against `kubectl diff` of them: the
# shape of manifests/prod.yaml, one cluster, in turn. Prints medians and ratios; ends with 1 when the gate was not reached.
#
# `up` asks for pods, volumes, secrets and records besides; the others look at the rendered objects alone.
# Needs kubectl, jq, go (Helm is built from the Go module proxy), `make build` beforehand, and what scripts/cluster.sh provides:
# run it as `scripts/cluster.sh scripts/bench-kubernetes.sh`. BENCH_RUNS sets the rounds (default 15).
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
. scripts/bench-lib.sh

runs=${BENCH_RUNS:-15}
namespace=bench-kubernetes
work=$PWD/target/bench-kubernetes
provisioner=target/release/provisioner
helm=$work/helm-v4.3.1/helm
manifest=manifests/.bench-kubernetes.yaml
mkdir -p "$work/chart/templates"

build_helm() {
	[[ -x $helm ]] || GOBIN=$(dirname "$helm") go install helm.sh/helm/v4/cmd/helm@v4.3.1
}

# Production, but for what a laptop's cluster has not: limits that somebody raised, a mail server, a load balancer.
describe() {
	sed -E "s|^environment: .*|environment: ci|
		s|^  # context: .*|  context: $(kubectl config current-context)|
		s|^  namespace: .*|  namespace: $namespace|
		s|^  service: .*|  service: node_port|
		s|^  registry: .*|  registry: ${PROVISIONER_TEST_REGISTRY_IN_CLUSTER:?}|
		/^  (host|port|security): /d" manifests/prod.yaml >"$manifest"
}

chart() {
	printf 'apiVersion: v2\nname: prod\nversion: 1.0.0\n' >"$work/chart/Chart.yaml"
	# The running members have another random word there. Helm's own brackets may stand in what is rendered.
	"$provisioner" render --file "$manifest" | grep -v 'provisioner.dev/instance: ' | tee "$work/objects.yaml" |
		sed 's/{{/{{ "{{" }}/g' >"$work/chart/templates/objects.yaml"
}

up_provisioner() { "$provisioner" up --file "$manifest" --yes --no-verify --progress quiet >/dev/null; }
upgrade_helm() { "$helm" upgrade prod "$work/chart" --namespace "$namespace" >/dev/null; }
diff_kubectl() { kubectl diff --server-side --field-manager bench -n "$namespace" -f "$work/objects.yaml" >/dev/null; }

clean() {
	"$provisioner" down --file "$manifest" --volumes --yes --progress quiet >/dev/null || true
	kubectl delete namespace "$namespace" --ignore-not-found >/dev/null || true
	rm -f "$manifest"
}

cargo build --locked --release -p provisioner
build_helm
describe
trap clean EXIT
"$provisioner" images push --file "$manifest" --registry "${PROVISIONER_TEST_REGISTRY:?}" >/dev/null
up_provisioner
chart
# The objects are there already; Helm takes them for its own from now on, which changes labels that the provisioner leaves alone.
"$helm" install prod "$work/chart" --namespace "$namespace" --take-ownership >/dev/null
up_provisioner
rm -f "$work"/{up,helm,diff}
for _ in $(seq "$runs"); do
	milliseconds up_provisioner >>"$work/up"
	milliseconds upgrade_helm >>"$work/helm"
	milliseconds diff_kubectl >>"$work/diff"
done
# Whatever Helm has done: there was nothing to do all the time.
"$provisioner" plan --file "$manifest" --detailed-exitcode >/dev/null
printf 'nothing to do, %s rounds, %s objects\n' "$runs" "$(grep -c '^kind:' "$work/objects.yaml")"
spread 'provisioner up --no-verify' "$work/up"
spread 'helm v4.3.1 upgrade' "$work/helm"
spread 'kubectl diff --server-side' "$work/diff"
up=$(middle <"$work/up")
gate 'no-op up, ms' "$up" at-most 1000
gate 'no-op up, of helm upgrade' "$(jq -n "$up / $(middle <"$work/helm")")" at-most 1
gate 'no-op up, of kubectl diff' "$(jq -n "$up / $(middle <"$work/diff")")" at-most 1
gates_reached
