#!/usr/bin/env bash
# scripts/cluster.sh COMMAND...: runs tests on a cluster, which PROVISIONER_TEST_KUBECONFIG or KUBECONFIG names or the script
# PROVISIONER_TEST_CLUSTER boots (it prints `export KUBECONFIG=FILE`; PROVISIONER_TEST_CLUSTER_DOWN ends what it booted).
# PROVISIONER_TEST_LOAD is a command that brings an image archive to the nodes (`kind load image-archive`); a cluster of
# this machine's own containerds needs none.
# PROVISIONER_TEST_REGISTRY is a registry to push to, PROVISIONER_TEST_REGISTRY_IN_CLUSTER the same one as the nodes reach it.
# Where only the latter is said, Debian's registry serves on its port of this machine.
set -euo pipefail

image=provisioner/base:trixie
kubeconfig=${PROVISIONER_TEST_KUBECONFIG:-${KUBECONFIG:-}}

if [[ -z $kubeconfig && -z ${PROVISIONER_TEST_CLUSTER:-} ]]; then
	printf 'skipped: the tests on Kubernetes. They need a cluster: name one with KUBECONFIG, or a script that boots one with PROVISIONER_TEST_CLUSTER\n' >&2
	exit 0
fi

if ! command -v kubectl >/dev/null; then
	printf 'error: the tests on Kubernetes need kubectl beside the cluster: https://kubernetes.io/docs/tasks/tools\n' >&2
	exit 1
fi

work=$(mktemp -d)
booted='' registry=''
finish() {
	if [[ -n $registry ]]; then kill "$registry" || true; fi
	if [[ -n $booted && -n ${PROVISIONER_TEST_CLUSTER_DOWN:-} ]]; then "$PROVISIONER_TEST_CLUSTER_DOWN" >/dev/null || true; fi
	rm -rf "$work"
}
trap finish EXIT

if [[ -z $kubeconfig ]]; then
	"$PROVISIONER_TEST_CLUSTER" | tee "$work/boot"
	booted=yes
	kubeconfig=$(sed -n 's/^export KUBECONFIG=//p' "$work/boot")
	if [[ -z $kubeconfig ]]; then
		printf 'error: %s booted no cluster: it prints no line "export KUBECONFIG=FILE"\n' "$PROVISIONER_TEST_CLUSTER" >&2
		exit 1
	fi
fi

if [[ -z ${PROVISIONER_TEST_IMAGE:-} ]]; then
	if ! docker image inspect "$image" >/dev/null 2>&1; then
		printf 'error: the Docker engine has no image %s to test with; make test-contract makes it\n' "$image" >&2
		exit 1
	fi
	docker save "$image" -o "$work/image.tar"
	if [[ -n ${PROVISIONER_TEST_LOAD:-} ]]; then
		$PROVISIONER_TEST_LOAD "$work/image.tar"
	else
		for socket in /run/kl/*/containerd.sock; do
			ctr -a "$socket" -n k8s.io images import "$work/image.tar" >/dev/null
		done
	fi
fi

if [[ -z ${PROVISIONER_TEST_REGISTRY:-} && -n ${PROVISIONER_TEST_REGISTRY_IN_CLUSTER:-} ]]; then
	port=${PROVISIONER_TEST_REGISTRY_IN_CLUSTER##*:}
	program=$(scripts/docker-registry.sh)
	printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: ":%s"}\n' "$work" "$port" >"$work/registry.yml"
	"$program" serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
	registry=$!
	for _ in {1..100}; do
		if curl -fs "http://127.0.0.1:$port/v2/" >/dev/null; then break; fi
		if ! kill -0 "$registry" 2>/dev/null; then
			printf 'error: the registry ended: %s\n' "$(tail -n 1 "$work/registry.log")" >&2
			exit 1
		fi
		sleep 0.1
	done
	export PROVISIONER_TEST_REGISTRY=127.0.0.1:$port
fi
export KUBECONFIG=$kubeconfig PROVISIONER_TEST_KUBECONFIG=$kubeconfig
"$@"
