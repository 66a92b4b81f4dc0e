#!/usr/bin/env bash
# The whole dev stack, stood up from nothing and verified, against its three Elasticsearch nodes alone by `docker run`:
# same images, files, limits and empty volumes, one engine, in turn. Prints medians and their ratio, and where the
# processors' time went: what the whole stack's other members need comes on top of what the nodes alone need. Ends with 1
# when the gate was not reached.
#
#   scripts/bench-up.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/bench-lib.sh

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
    for node in "${nodes[@]}"; do docker rmi -f "bench-up:$node" > /dev/null 2>&1 || true; done
    rm -rf "$kept"
}
trap clean EXIT

seconds() { awk -v from="$1" -v to="$2" 'BEGIN { printf "%.1f\n", to - from }'; }

# What containers have used since they started, in seconds of one processor.
processor() {
    local name
    for name in "$@"; do
        curl -s --unix-socket /var/run/docker.sock "http://localhost/containers/$name/stats?stream=false&one-shot=true" |
            sed 's/.*"cpu_stats":{"cpu_usage":{"total_usage":\([0-9]*\).*/\1/'
    done | awk '{ sum += $1 } END { printf "%.1f\n", sum / 1e9 }'
}

# The nodes with all that they were given, and the password of the user that may look at the cluster.
keep() {
    for node in "${nodes[@]}"; do
        docker commit "$stack-$node" "bench-up:$node" > /dev/null
    done
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
    local node begin
    docker network create alone > /dev/null
    for node in "${nodes[@]}"; do
        docker volume create "alone-$node" > /dev/null
        docker run --rm --entrypoint /bin/sh -v "alone-$node:$home/data" "bench-up:$node" \
            -c "echo found $(IFS=,; echo "${nodes[*]}") > $home/data/word"
    done
    begin=$(date +%s.%N)
    for node in "${nodes[@]}"; do
        docker run -d --name "alone-$node" --hostname "$node" --network alone --network-alias "$node" \
            --network-alias elasticsearch -m "$memory" --memory-swap "$memory" --cpus "$cpus" -p 127.0.0.1::9200 \
            -v "alone-$node:$home/data" "bench-up:$node" > /dev/null
    done
    until healthy; do
        [ "$(date +%s)" -lt $((${begin%.*} + 300)) ] || { echo "the nodes alone form no cluster in 300 s" >&2; exit 1; }
        sleep 0.2
    done
    seconds "$begin" "$(date +%s.%N)"
    processor "${nodes[@]/#/alone-}" >> "$kept/alone-used"
    alone_down
}

whole() {
    local begin
    begin=$(date +%s.%N)
    ours up > "$kept/up.log" 2>&1 || { cat "$kept/up.log" >&2; exit 1; }
    seconds "$begin" "$(date +%s.%N)"
    processor "${nodes[@]/#/$stack-}" >> "$kept/search-used"
    docker ps --filter "name=^$stack-" --format '{{.Names}}' | grep -v -- -elasticsearch- |
        while read -r name; do processor "$name"; done | awk '{ sum += $1 } END { print sum }' >> "$kept/others-used"
}

clean
kept=$(mktemp -d)
for round in $(seq "$rounds"); do
    whole | tee -a "$kept/whole"
    [ "$round" -gt 1 ] || keep
    ours down --volumes --yes > /dev/null 2>&1
    alone | tee -a "$kept/alone"
done
w=$(middle < "$kept/whole") a=$(middle < "$kept/alone")
echo "whole stack, verified: $w s; three nodes alone: $a s (medians of $rounds)"
awk -v alone="$(middle < "$kept/alone-used")" -v search="$(middle < "$kept/search-used")" \
    -v others="$(middle < "$kept/others-used")" -v took="$a" -v cores="$(nproc)" 'BEGIN {
        printf "processor seconds: three nodes alone %.1f (%.0f %% of %d cores); in the whole stack %.1f, all other members %.1f\n",
            alone, 100 * alone / took / cores, cores, search, others
        printf "so with every core busy throughout, and no work for engine, provisioner and checks, the ratio cannot be below %.2f\n",
            (alone + others) / cores / took
    }'
gate 'the whole stack, times three nodes alone' "$(jq -n "$w / $a")" at-most 1.2
gates_reached
