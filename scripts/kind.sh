#!/usr/bin/env bash
# scripts/kind.sh: boots a cluster of two nodes with kind, and prints as NAME=VALUE what scripts/cluster.sh wants to know of it.
# The nodes pull from a registry on port 5000 of this machine, without TLS.
set -euo pipefail

kubeconfig=$(mktemp)
kind create cluster --kubeconfig "$kubeconfig" --wait 120s --config - >&2 <<'END'
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
END

gateways=$(docker network inspect kind --format '{{range .IPAM.Config}}{{println .Gateway}}{{end}}')
registry=$(grep -m 1 '\.' <<<"$gateways"):5000
for node in $(kind get nodes); do
	docker exec -i "$node" sh -c 'mkdir -p "$1" && cat > "$1/hosts.toml"' sh "/etc/containerd/certs.d/$registry" \
		<<<"[host.\"http://$registry\"]"
done
printf 'KUBECONFIG=%s\n' "$kubeconfig"
printf 'PROVISIONER_TEST_LOAD=kind load image-archive\n'
printf 'PROVISIONER_TEST_REGISTRY_IN_CLUSTER=%s\n' "$registry"
