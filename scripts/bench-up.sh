#!/usr/bin/env bash
# The whole dev stack, stood up from nothing and verified, against its three Elasticsearch nodes alone by `docker run`:
# same images, files, limits and empty volumes, one engine, in turn. Prints medians and their ratio.
#
#   scripts/bench-up.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-3}
provisioner=${PROVISIONER:-target/debug/provisioner}
stack=bench-up
nodes=(elasticsearch-1 elasticsearch-2 elasticsearch-3)
home=/usr/share/elasticsearch
kept=$(mktemp -d)

ours() { "$provisioner" "$1" --env dev --name "$stack" --http-port auto "${@:2}"; }

alone_down() {
    for node in "${nodes[@]}"; do
        docker rm -f -v "alone-$node" > /dev/null 2>&1 || true
        docker volume rm "alone-$node" > /dev/null 2>&1 || true
    done
    docker network rm alone > /dev/null 2>&1 || true
}

clean() {
    ours down --volumes --yes > /dev/null 2>&1 || true
    alone_down
    rm -rf "$kept"
}
trap clean EXIT

seconds() { awk -v from="$1" -v to="$2" 'BEGIN { printf "%.1f\n", to - from }'; }

median() { sort -n | awk '{ seen[NR] = $1 } END { print seen[int((NR + 1) / 2)] }'; }

# What the nodes were given, and the password of the user that may look at the cluster.
keep() {
    for node in "${nodes[@]}"; do
        docker cp -a "$stack-$node:$home/config" - > "$kept/$node.config.tar"
        docker cp -a "$stack-$node:/run/provisioner" - > "$kept/$node.run.tar"
    done
    image=$(docker inspect -f '{{.Config.Image}}' "$stack-${nodes[0]}")
    mapfile -t environment < <(docker inspect -f '{{range .Config.Env}}{{println .}}{{end}}' "$stack-${nodes[0]}" | sed '/^$/d; /^PATH=/d')
    admin=$(docker exec "$stack-${nodes[0]}" sed -n 's/^admin //p' /run/provisioner/elasticsearch/passwords)
    memory=$(docker inspect -f '{{.HostConfig.Memory}}' "$stack-${nodes[0]}")
    cpus=$(docker inspect -f '{{.HostConfig.NanoCpus}}' "$stack-${nodes[0]}" | awk '{ print $1 / 1e9 }')
}

healthy() {
    local port
    port=$(docker port "alone-${nodes[0]}" 9200/tcp | head -1)
    printf 'user = "admin:%s"\n' "$admin" |
        curl -sk -K - "https://$port/_cluster/health?wait_for_nodes=3&wait_for_status=green&timeout=1s" |
        grep -q '"timed_out":false.*"number_of_nodes":3'
}

alone() {
    local node flags=() variable
    for variable in "${environment[@]}"; do flags+=(-e "$variable"); done
    docker network create alone > /dev/null
    for node in "${nodes[@]}"; do
        docker volume create "alone-$node" > /dev/null
        docker run --rm -v "alone-$node:$home/data" "$image" \
            /bin/sh /usr/local/lib/provisioner/elasticsearch/node found "$(IFS=,; echo "${nodes[*]}")"
    done
    local begin
    begin=$(date +%s.%N)
    for node in "${nodes[@]}"; do
        docker create --name "alone-$node" --hostname "$node" --network alone --network-alias "$node" \
            --network-alias elasticsearch -m "$memory" --memory-swap "$memory" --cpus "$cpus" -p 127.0.0.1::9200 \
            -v "alone-$node:$home/data" "${flags[@]}" "$image" > /dev/null
        docker cp -a - "alone-$node:$home" < "$kept/$node.config.tar"
        docker cp -a - "alone-$node:/run" < "$kept/$node.run.tar"
        docker start "alone-$node" > /dev/null
    done
    until healthy; do
        [ "$(date +%s)" -lt $((${begin%.*} + 300)) ] || { echo "the nodes alone form no cluster in 300 s" >&2; exit 1; }
        sleep 0.2
    done
    seconds "$begin" "$(date +%s.%N)"
    alone_down
}

whole() {
    local begin
    begin=$(date +%s.%N)
    ours up > "$kept/up.log" 2>&1 || { cat "$kept/up.log" >&2; exit 1; }
    seconds "$begin" "$(date +%s.%N)"
}

clean
kept=$(mktemp -d)
for round in $(seq "$rounds"); do
    whole | tee -a "$kept/whole"
    [ "$round" -gt 1 ] || keep
    ours down --volumes --yes > /dev/null 2>&1
    alone | tee -a "$kept/alone"
done
w=$(median < "$kept/whole") a=$(median < "$kept/alone")
echo "whole stack, verified: $w s; three nodes alone: $a s; ratio $(awk -v w="$w" -v a="$a" 'BEGIN { printf "%.2f", w / a }') (medians of $rounds)"
