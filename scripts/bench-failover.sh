#!/usr/bin/env bash
# Failovers as the ledger sees them: every fault so often, on a database alone (manifests/ha.yaml) and on the whole dev stack
# with two replicas while orders come in; kills in a row; and a watch under orders and re-indexing that must do nothing.
#
#   scripts/bench-failover.sh [alone|whole|kills|watch]...     all of them without an argument
#   RUNS=5 FAULTS="kill host-kill pause partition switchover" KILLS=30 MINUTES=30 scripts/bench-failover.sh ...
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/bench-lib.sh

runs=${RUNS:-5}
kills=${KILLS:-30}
minutes=${MINUTES:-30}
read -ra faults <<< "${FAULTS:-kill host-kill pause partition switchover}"
provisioner=${PROVISIONER:-target/debug/provisioner}
stack=bench-failover
# Each waits for its order's answer and a tenth of a second more.
customers=4
kept=$(mktemp -d)
manifest=$kept/manifest.yaml
background=()
breaches=()
# Milliseconds until writes are back: the median, and the greatest.
declare -A median_limit=([kill]=1500 [host-kill]=1500 [pause]=5000 [switchover]=600)
declare -A max_limit=([kill]=3000 [pause]=8000 [switchover]=1500)
redundancy_limit=5000

ours() { "$provisioner" "$1" --file "$manifest" --name "$stack" "${@:2}"; }

end_background() {
    local process
    for process in "${background[@]}"; do
        kill "$process" 2> /dev/null || true
        wait "$process" 2> /dev/null || true
    done
    background=()
}

clean() {
    end_background
    [ ! -e "$manifest" ] || ours down --volumes --yes > /dev/null 2>&1 || true
    rm -rf "$kept"
}
trap clean EXIT
trap 'exit 1' INT TERM

stand_up() {
    local shape=$1
    # The program is named relative to the manifest.
    sed "s|\.\./target|$PWD/target|" "manifests/$shape.yaml" > "$manifest"
    if [ "$shape" = dev ]; then
        sed -i -e '/^postgres:/,/^[a-z]/ { s/replicas: 1 /replicas: 2 /; s/synchronous: preferred/synchronous: required/ }' \
            -e 's/rate_limit: 50 /rate_limit: 1000 /' "$manifest"
        grep -q 'synchronous: required' "$manifest" || { echo "manifests/dev.yaml is not written as expected" >&2; exit 1; }
    fi
    ours up --http-port auto > "$kept/up" 2>&1 || { cat "$kept/up" >&2; exit 1; }
    # A stack that was just stood up is busy with itself.
    if [ "$shape" = dev ]; then sleep 60; fi
}

# Orders until it is ended: each is sent with its key until it is acknowledged, and then counted.
customer() {
    local number=0 key answer
    while :; do
        key="bench-$1-$number"
        answer=$(curl -s -m 5 -o /dev/null -w '%{http_code}' -H 'content-type: application/json' -H "idempotency-key: $key" \
            -d "{\"email\":\"bench-$1@example.com\",\"items\":[{\"sku\":\"PROBE-0\",\"qty\":1}]}" "$shop/api/v1/orders") || true
        case $answer in
            200 | 201)
                number=$((number + 1))
                echo "$number" > "$kept/orders-$1"
                ;;
        esac
        sleep 0.1
    done
}

orders_begin() {
    local who
    shop=$(ours open -o json | jq -r '[.[] | select(.name == "http")][0].url')
    shop=${shop%/}
    [ -n "$shop" ] || { echo "provisioner open names no shop" >&2; exit 1; }
    ordering_since=$SECONDS
    for who in $(seq "$customers"); do
        customer "$who" &
        background+=($!)
    done
}

# Ends the customers, and holds what was acknowledged against what is stored. The last order of each may be stored unheard.
orders_end() {
    local acknowledged stored took=$((SECONDS - ordering_since))
    end_background
    acknowledged=$(cat "$kept"/orders-* | awk '{ sum += $1 } END { print sum }')
    stored=$(ours exec "$(primary)" -- psql -U postgres -d app -Atqc "SELECT count(*) FROM orders WHERE email LIKE 'bench-%'")
    if [ "$stored" -lt "$acknowledged" ] || [ "$stored" -gt $((acknowledged + customers)) ]; then breach "orders"; fi
    echo "orders: $acknowledged acknowledged in $took s, $stored stored (up to $customers more were under way at the end)"
}

# Figures are told whatever they are; what must never happen, and a gate that was not reached, ends the run with 1.
breach() { breaches+=("$1"); }

primary() { ours status -o json --no-usage | jq -r '.members[] | select(.role == "primary").member'; }

timeline() { ours exec "$(primary)" -- psql -U postgres -Atqc 'SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)'; }

drill() {
    local fault=$1 count=$2 words
    if [ "$fault" = switchover ]; then words=(switchover); else words=(failover --fault "$fault"); fi
    # Its verdict is in the file; one that failed is a result too.
    ours drill "${words[@]}" --runs "$count" --json-into "$kept/drill" > /dev/null 2> "$kept/said" || true
    [ -s "$kept/drill" ] || { cat "$kept/said" >&2; exit 1; }
}

# One line a fault: writes back, and redundancy after that, in ms; rows lost and time of two primaries over all runs.
row() {
    jq -r --arg shape "$1" --arg fault "$2" '
        def spread: sort | "\(.[0]) / \(.[length / 2 | floor]) / \(.[-1])";
        (.runs // [.]) as $runs | $runs | map(.phases[] | select(.name == "redundancy back").took_ms) as $back
        | "| \($shape) | \($fault) | \([.[] | select(.verdict == "pass")] | length) of \(length) | \(map(.rto_ms) | spread) | \(if $back == [] then "" else ($back | spread) end) | \(map(.rpo_rows) | add) of \(map(.acked) | add) | \(map(.dual_primary_ms) | add) | \(map(.refused) | spread) |"' "$kept/drill"
    jq -e '[(.runs // [.])[] | .rpo_rows + .dual_primary_ms] | add == 0' "$kept/drill" > /dev/null || breach "$1, $2"
    row_gates "$1" "$2" >> "$kept/gates"
    rm -f "$kept/drill"
}

row_gates() {
    local found='(.runs // [.]) | map(.rto_ms) | sort'
    [ -z "${median_limit[$2]:-}" ] || gate "$1, $2: writes back, median, ms" "$(jq "$found | .[length / 2 | floor]" "$kept/drill")" at-most "${median_limit[$2]}"
    [ -z "${max_limit[$2]:-}" ] || gate "$1, $2: writes back, greatest, ms" "$(jq "$found | .[-1]" "$kept/drill")" at-most "${max_limit[$2]}"
    # Nothing is rejoined where the server came back by itself.
    jq '[(.runs // [.])[].phases[] | select(.name == "redundancy back").took_ms] | max // empty' "$kept/drill" > "$kept/back"
    [ ! -s "$kept/back" ] || gate "$1, $2: redundancy after that, greatest, ms" "$(cat "$kept/back")" at-most "$redundancy_limit"
}

head_row() {
    echo '| stack | fault | passed | writes back, ms (min / median / max) | redundancy after that, ms | acked rows lost | two primaries, ms | refused |'
    echo '|---|---|---|---|---|---|---|---|'
}

drills() {
    local fault
    for fault in "${faults[@]}"; do
        drill "$fault" "$runs"
        row "$1" "$fault"
    done
}

alone() {
    stand_up ha
    head_row
    drills 'database alone'
    ours down --volumes --yes > /dev/null 2>&1
}

whole() {
    stand_up dev
    orders_begin
    head_row
    drills 'whole, under orders'
    orders_end
    ours down --volumes --yes > /dev/null 2>&1
}

in_a_row() {
    stand_up ha
    drill kill "$kills"
    head_row
    row 'database alone' kill
    ours down --volumes --yes > /dev/null 2>&1
}

reindex() {
    while :; do
        if ours exec worker-search-1 -- /bin/sh -c 'set -a; . /run/provisioner/env; exec /usr/local/bin/app reindex' > "$kept/said" 2>&1; then
            echo "done" >> "$kept/reindexed"
        else
            cat "$kept/said" >> "$kept/reindexed"
        fi
        sleep 5
    done
}

watched() {
    local before after watching
    stand_up dev
    orders_begin
    before=$(timeline)
    # Not through a function, so that the number is that of the process.
    "$provisioner" watch --file "$manifest" --name "$stack" --yes > "$kept/watched" 2>&1 &
    watching=$!
    background+=("$watching")
    reindex &
    background+=($!)
    sleep $((minutes * 60))
    kill -0 "$watching" || { echo "the watch has ended:" >&2; cat "$kept/watched" >&2; exit 1; }
    after=$(timeline)
    [ "$before" = "$after" ] || breach "watch: timeline $before, then $after"
    echo "watched for $minutes min: $(grep -c 'is lost' "$kept/watched" || true) losses seen, $(grep -c ' is well again' "$kept/watched" || true) moments of trouble, timeline $before before and $after after, $(grep -c '^done$' "$kept/reindexed" || true) re-indexings, other words of theirs: $(grep -v '^done$' "$kept/reindexed" | head -n 3)"
    orders_end
    ours down --volumes --yes > /dev/null 2>&1
}

(($#)) || set -- alone whole kills watch
for part in "$@"; do
    case $part in
        alone) alone ;;
        whole) whole ;;
        kills) in_a_row ;;
        watch) watched ;;
        *) echo "no part $part, expected alone, whole, kills or watch" >&2; exit 64 ;;
    esac
done
if [ -e "$kept/gates" ]; then
    printf '\n| gate | found | limit | |\n|---|---|---|---|\n'
    cat "$kept/gates"
fi
if ((${#breaches[@]})); then
    printf 'rows were lost, two members took writes, or somebody was promoted for nothing: %s\n' "${breaches[@]}" >&2
    exit 1
fi
gates_reached
