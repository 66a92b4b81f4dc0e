#!/usr/bin/env bash
# Search on the real cluster of three nodes with 100,000 products, through NGINX and the app, beside Elasticsearch asked
# directly, and how soon an order is seen in the index at 100 orders a second. benches/search/stack.yaml is what it stands up.
#
# Ends with 1 when a gate was not reached.
#
#   scripts/bench-search.sh [PARTS]      "search visible"
#   SECS, WARM_SECS, ROUNDS    8, 3, 3
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/bench-lib.sh

read -ra parts <<< "${1:-search visible}"
secs=${SECS:-8}
warm_secs=${WARM_SECS:-3}
rounds=${ROUNDS:-3}
provisioner=${PROVISIONER:-target/debug/provisioner}
stack=bench-search
here=benches/search
products=100000
clients=16
nodes=(elasticsearch-1 elasticsearch-2 elasticsearch-3)
work=target/$stack
kept=$(mktemp -d)
results=$kept/results
touch "$results"

ours() { "$provisioner" "$1" --file "$here/stack.yaml" --name "$stack" --http-port auto "${@:2}"; }

clean() {
    docker rm -f -v "$stack-load" > /dev/null 2>&1 || true
    ours down --volumes --yes > /dev/null 2>&1 || true
    docker rmi -f "$stack-load:1" > /dev/null 2>&1 || true
    rm -rf "$kept"
}
trap clean EXIT
trap 'exit 1' INT TERM

load() { docker exec "$stack-load" "$@"; }
sql() { ours exec postgres-1 -- psql -XqAt -U postgres -d app -c "$1"; }
site=http://nginx-1:8080

# A login for the index, given by file so that it shows in no list of processes.
search() { load curl -ksf -K /tmp/login -H 'Content-Type: application/json' "https://elasticsearch-1:9200/$1" "${@:2}"; }
indexed() { [ "$(search products/_count | jq .count)" -ge "$products" ]; }

stand_up() {
    ours up --no-verify
    docker run -d --name "$stack-load" --network "$stack" "$stack-load:1" > /dev/null
    { echo -n 'user = "admin:'; ours exec elasticsearch-1 -- sed -n 's/^admin //p' /run/provisioner/elasticsearch/passwords | tr -d '\n'; echo '"'; } |
        docker exec -i "$stack-load" sh -c 'umask 077; cat > /tmp/login'
    until_done 300 indexed
    questions
}

# Words of the products' own names, so that every question has an answer.
questions() {
    local words
    sql "SELECT DISTINCT lower(split_part(name, ' ', n)) FROM products, generate_series(1, 3) n WHERE sku LIKE 'PART-%' AND id % 97 = 0" |
        grep -E '^[a-z]{5,}$' | sort > "$kept/words"
    words=$(wc -l < "$kept/words")
    [ "$words" -ge 30 ] || { echo "found $words words in names, expected 30 or more" >&2; exit 1; }
    sed 's|^|/api/v1/search?q=|' "$kept/words" > "$kept/word"
    shuf --random-source=<(yes) -n 500 -r "$kept/words" | paste -d' ' - <(shuf --random-source=<(yes 1) -n 500 -r "$kept/words") |
        sed 's|^\(.*\) \(.*\)$|/api/v1/search?q=\1+\2|' > "$kept/two-words"
    sed -E 's|^(..)(.)(.)(.*)$|/api/v1/search?q=\1\3\2\4|' "$kept/words" > "$kept/typo"
    sed -E 's|^(.*)$|/api/v1/search?q=\1\&brand=Brand%2013\&min_price=1000\&max_price=150000\&in_stock=true|' "$kept/words" > "$kept/filtered"
    sed 's|$|\&sort=price_asc|' "$kept/word" > "$kept/by-price"
    sed -E 's|^(...).*$|/api/v1/search/suggest?q=\1|' "$kept/words" | sort -u > "$kept/suggest"
    for kind in word two-words typo filtered by-price suggest; do docker cp "$kept/$kind" "$stack-load:/tmp/$kind" > /dev/null; done
}

members=(nginx-1 backend-1 backend-2 "${nodes[@]}" postgres-1 postgres-2 redis-1)
cpus() { for member in "${members[@]}"; do cpu "$stack-$member"; done | jq -cs .; }
# Time that shards took for queries, and for fetching what is shown, in all nodes: milliseconds.
shards() { search '_nodes/stats/indices/search' | jq -c '[.nodes[].indices.search | [.query_time_in_millis, .fetch_time_in_millis, .query_total]] | transpose | map(add)'; }

measure() {
    local kind=$1 before after shards_before shards_after
    load wrk -t1 "-c$clients" "-d${warm_secs}s" -s /load.lua "$site" -- "/tmp/$kind" > /dev/null
    before=$(cpus) shards_before=$(shards)
    load wrk -t1 "-c$clients" "-d${secs}s" -s /load.lua "$site" -- "/tmp/$kind" | tail -n 1 > "$kept/load"
    after=$(cpus) shards_after=$(shards)
    jq -c --arg kind "$kind" --argjson before "$before" --argjson after "$after" --argjson shards_before "$shards_before" --argjson shards_after "$shards_after" '
        . as $run | ([$before, $after] | transpose | map((.[1] - .[0]) / $run.requests)) as $us | ([$shards_before, $shards_after] | transpose | map((.[1] - .[0]) / $run.requests)) as $shards
        | {kind: "search", path: $kind, server: "app"} + $run + {nginx_us: ($us[0] | round), app_us: ($us[1] + $us[2] | round), elasticsearch_us: ($us[3] + $us[4] + $us[5] | round),
           postgres_us: ($us[6] + $us[7] | round), redis_us: ($us[8] | round), shard_query_ms: $shards[0], shard_fetch_ms: $shards[1], shard_queries: $shards[2]}' "$kept/load" | tee -a "$results"
}

# One after another on an idle machine: what a customer waits for, and which part of it is Elasticsearch's own.
alone() {
    local kind=$1
    load wrk -t1 "-c$clients" "-d${warm_secs}s" -s /load.lua "$site" -- "/tmp/$kind" > /dev/null
    load wrk -t1 -c1 "-d${secs}s" -s /load.lua "$site" -- "/tmp/$kind" | tail -n 1 | jq -c --arg kind "$kind" '{kind: "alone", path: $kind, server: "app"} + .' | tee -a "$results"
}

visible() {
    # Of what is there in plenty: a product that sells out meanwhile would end the run.
    sql "SELECT sku FROM products JOIN inventory ON product_id = id WHERE sku LIKE 'PART-%' AND on_hand >= 100 ORDER BY md5(sku) LIMIT 8000" > "$kept/skus"
    docker cp "$kept/skus" "$stack-load:/tmp/skus" > /dev/null
    for _ in $(seq "$rounds"); do
        load sh -c "python3 /visible.py $site https://elasticsearch-1:9200/products /tmp/login 20 100 < /tmp/skus" |
            jq -c '{kind: "visible", path: "visible", server: "app"} + .' | tee -a "$results"
    done
}

tables() {
    echo
    jq -rs 'def middle(key): map(.[key]) | sort | .[(length - 1) / 2 | floor] * 100 | round / 100;
        map(select(.kind == "alone")) as $alone | map(select(.kind == "search")) | group_by(.path)[] |
        . as $runs | ($alone | map(select(.path == $runs[0].path))) as $one |
        "| \(.[0].path) | \(middle("rps")) | \(middle("p50_ms")) | \(middle("p99_ms")) | \($one | middle("p50_ms")) / \($one | middle("p99_ms")) | \(middle("elasticsearch_us")) | \(middle("app_us")) | \(middle("nginx_us")) | \(middle("postgres_us")) | \(middle("shard_query_ms")) | \(middle("shard_fetch_ms")) | \(map(.errors) | add) |"' "$results" |
        sed "1i | question | requests/s, $clients at once | p50, ms | p99, ms | one at a time, p50 / p99 | CPU us: Elasticsearch | app | NGINX | PostgreSQL | shards' query time, ms | fetch | errors |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    echo
    jq -rs 'map(select(.kind == "visible"))[] | "| commit to visible, \(.rps) orders/s | \(.orders) seen | p50 \(.p50_ms) ms | p99 \(.p99_ms) ms | max \(.max_ms) ms |"' "$results"
    echo
    echo '| gate | found | limit | |'
    echo '|---|---|---|---|'
    if [[ " ${parts[*]} " == *' visible '* ]]; then
        gate 'commit to visible in search, p99, ms, at 100 orders/s' "$(median p99_ms visible visible app)" at-most 2000
        # A median rate would let runs count that were slower than what they claim to show.
        gate 'orders/s meanwhile, of the slowest run' "$(jq -s 'map(select(.kind == "visible").rps) | min' "$results")" at-least 95
    fi
    gate 'errors' "$(jq -s 'map(.errors // 0) | add' "$results")" at-most 0
}

mkdir -p "$work"
cp "$here"/load.* "$here/visible.py" "$work/"
docker build -q --build-arg "BASE=${BASE:-provisioner/base:trixie}" -t "$stack-load:1" -f "$work/load.Dockerfile" "$work" > /dev/null
stand_up
for part in "${parts[@]}"; do
    case $part in
        search)
            for kind in word two-words typo filtered by-price suggest; do
                alone "$kind"
                for _ in $(seq "$rounds"); do measure "$kind"; done
            done
            ;;
        visible) visible ;;
        *) echo "found the part $part, expected search or visible" >&2; exit 1 ;;
    esac
done
tables
if [ -n "${RESULTS:-}" ]; then cp "$results" "$RESULTS"; fi
gates_reached
