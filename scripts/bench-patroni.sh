#!/usr/bin/env bash
# Patroni with etcd and HAProxy under the drills' faults, ledger and judge: three PostgreSQL members, three etcd members and
# one HAProxy on a network of their own, from Debian packages (benches/patroni). Prints one line of JSON a run and a table
# at the end; the faults are those of `provisioner failover --drill`.
#
#   scripts/bench-patroni.sh [RUNS] [SETTINGS] [MODES] [FAULTS]
#   scripts/bench-patroni.sh 5 "fast shipped" "quorum async" "kill pause postmaster switchover"
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-5}
read -ra settings <<< "${2:-fast shipped}"
read -ra modes <<< "${3:-quorum async}"
read -ra faults <<< "${4:-kill pause postmaster switchover}"
probe=${PROBE:-target/x86_64-unknown-linux-musl/debug/probe}
judge=${JUDGE:-target/debug/examples/judge}
prefix=${PREFIX:-bench-patroni}
base=${BASE:-provisioner/base:trixie}
image=$prefix:1
here=benches/patroni
members=(patroni-1 patroni-2 patroni-3)
paused_secs=40
kept=$(mktemp -d)
results=$kept/results

for file in "$probe" "$judge"; do
    [ -x "$file" ] || { echo "found no program $file: make build makes the probe, cargo build -p provisioner-drills --example judge the judge" >&2; exit 1; }
done

clean() {
    local name
    for name in "${members[@]}" etcd-1 etcd-2 etcd-3 haproxy ledger; do
        docker rm -f -v "$prefix-$name" > /dev/null 2>&1 || true
    done
    docker network rm "$prefix" > /dev/null 2>&1 || true
}
trap 'clean; docker rmi -f "$image" > /dev/null 2>&1 || true; rm -rf "$kept"' EXIT

trap 'exit 1' INT TERM

now_us() { echo "${EPOCHREALTIME/[.,]/}"; }

# Waits up to $1 s until the rest of the line succeeds.
until_done() {
    local limit=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$limit" ] || { echo "no end: $*" >&2; exit 1; }
        sleep 0.1
    done
}

sql() { timeout 5 docker exec -i "$prefix-$1" psql -XqAt -v ON_ERROR_STOP=1 -d postgres -c "$2" 2> /dev/null; }

# The first member that is no replica, apart from $1.
leader() {
    local member
    for member in "${members[@]}"; do
        if [ "$member" != "${1:-}" ] && [ "$(sql "$member" 'SELECT pg_is_in_recovery()')" = f ]; then
            echo "$member"
            return
        fi
    done
    return 1
}

has_leader() { leader "${1:-}" > /dev/null; }

# A row that is written now arrives on both replicas, and in quorum mode commits wait for them again.
is_redundant() {
    local primary member nonce
    primary=$(leader) || return 1
    nonce=$(now_us)
    [ "$(sql "$primary" "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND ('$mode' = 'async' OR sync_state = 'quorum')")" = 2 ] || return 1
    sql "$primary" "UPDATE marker SET nonce = $nonce" || return 1
    for member in "${members[@]}"; do
        [ "$(sql "$member" 'SELECT nonce FROM marker')" = "$nonce" ] || return 1
    done
}

start() {
    local name=$1
    shift
    docker create --name "$prefix-$name" --hostname "$name" --network "$prefix" --network-alias "$name" --stop-timeout 1 "$@" > /dev/null
    docker start "$prefix-$name" > /dev/null
}

stand_up() {
    local node member primary
    clean
    docker network create "$prefix" > /dev/null
    for node in etcd-1 etcd-2 etcd-3; do
        start "$node" --env-file "$here/settings/etcd.env" -e "ETCD_NAME=$node" -e "ETCD_ADVERTISE_CLIENT_URLS=http://$node:2379" \
            -e "ETCD_INITIAL_ADVERTISE_PEER_URLS=http://$node:2380" "$image" etcd
    done
    for member in "${members[@]}"; do
        start "$member" --env-file "$kept/passwords" -e "PATRONI_NAME=$member" -e "PATRONI_RESTAPI_CONNECT_ADDRESS=$member:8008" \
            -e "PATRONI_POSTGRESQL_CONNECT_ADDRESS=$member:5432" --shm-size 256m "$image" \
            /bin/sh -c "cd /etc/peer/patroni && mkdir -p /tmp/patroni && cp 00-*.yml 10-$setting.yml 20-$mode.yml /tmp/patroni/ && exec patroni /tmp/patroni"
    done
    start haproxy --env-file "$here/settings/haproxy-$setting.env" "$image" haproxy -W -db -f /etc/peer/haproxy.cfg
    until_done 120 has_leader
    primary=$(leader)
    until_done 60 sql "$primary" 'CREATE TABLE IF NOT EXISTS marker (nonce bigint); INSERT INTO marker VALUES (0)'
    {
        echo "CREATE ROLE ledger LOGIN;"
        # Through standard input, so that no list of processes shows it.
        echo "ALTER ROLE ledger PASSWORD '$ledger_password';"
        cat provisioner/components/recipes/postgres/ledger.sql
    } | docker exec -i "$prefix-$primary" psql -Xq -v ON_ERROR_STOP=1 -d postgres > /dev/null
    until_done 120 is_redundant
}

ledger_begins() {
    docker create --name "$prefix-ledger" --network "$prefix" --env-file "$kept/ledger" "$image" /tmp/probe ledger > /dev/null
    docker cp -q "$probe" "$prefix-ledger:/tmp/probe" 2> /dev/null || docker cp "$probe" "$prefix-ledger:/tmp/probe" > /dev/null
    docker start "$prefix-ledger" > /dev/null
    sleep 5
}

# The journal ends once what is under way was settled, and the probe then waits to be read.
ledger_ends() {
    docker kill -s USR1 "$prefix-ledger" > /dev/null
    until_done 20 ledger_has_ended
    run=$(sed -n '1s/^ledger 1 \([0-9]*\) .*/\1/p' "$kept/journal")
}

ledger_has_ended() {
    docker cp "$prefix-ledger:/tmp/journal" "$kept/journal" > /dev/null
    tail -n 1 "$kept/journal" | grep -q '^end '
}

# Sets `fault_us`, when the fault came, and `healed_us`, from when on redundancy could come back.
inject() {
    local primary=$1 candidate=$2
    fault_us=$(now_us)
    case $fault in
        kill)
            docker kill "$prefix-$primary" > /dev/null
            until_done 90 has_leader "$primary"
            healed_us=$(now_us)
            docker start "$prefix-$primary" > /dev/null
            ;;
        pause)
            docker pause "$prefix-$primary" > /dev/null
            sleep "$paused_secs"
            healed_us=$(now_us)
            docker unpause "$prefix-$primary" > /dev/null
            ;;
        postmaster)
            # shellcheck disable=SC2016 # for the shell in the container
            docker exec "$prefix-$primary" /bin/sh -c 'kill -KILL "$(head -n 1 /var/lib/postgresql/17/postmaster.pid)"'
            healed_us=$fault_us
            ;;
        switchover)
            docker exec "$prefix-$primary" patronictl -c /tmp/patroni switchover --leader "$primary" --candidate "$candidate" --force > "$kept/switchover" 2>&1 ||
                { cat "$kept/switchover" >&2; exit 1; }
            healed_us=$fault_us
            ;;
        *) echo "no fault $fault, expected kill, pause, postmaster or switchover" >&2; exit 64 ;;
    esac
}

rows() {
    local member
    rm -rf "$kept/rows"
    mkdir "$kept/rows"
    for member in "${members[@]}"; do
        docker exec "$prefix-$member" psql -XqAt -F ' ' -d postgres -c "SELECT 'e', writer, number FROM ledger.entries WHERE run = $run
            UNION ALL SELECT 'm', member, number FROM ledger.members WHERE run = $run" > "$kept/rows/$member"
    done
}

measure() {
    local primary candidate new replicas redundant_us synchronous=required
    # A replica that commits wait for; Patroni refuses any other.
    primary=$(leader)
    for candidate in "${members[@]}"; do [ "$candidate" = "$primary" ] || break; done
    # With the template's settings sessions of dead servers keep its 100 connections from one run to the next, until no client
    # gets through any more.
    docker restart -t 0 "$prefix-haproxy" > /dev/null
    ledger_begins
    inject "$primary" "$candidate"
    # Patroni sees after a loop's time only that something happened.
    if [ "$fault" != postmaster ]; then until_done 90 has_leader "$primary"; fi
    until_done 150 is_redundant
    redundant_us=$(now_us)
    sleep 1
    ledger_ends
    rows
    new=$(leader)
    replicas=()
    for candidate in "${members[@]}"; do [ "$candidate" = "$new" ] || replicas+=("$kept/rows/$candidate"); done
    [ "$mode" = quorum ] || synchronous=off
    "$judge" "$fault" "$synchronous" "$fault_us" "$kept/journal" "$kept/rows/$new" "${replicas[@]}" > "$kept/verdict"
    docker rm -f -v "$prefix-ledger" > /dev/null
    jq -c --arg settings "$setting" --arg mode "$mode" --argjson redundant "$(((redundant_us - healed_us) / 1000))" --arg moved "$primary -> $new" \
        '{settings: $settings, mode: $mode, fault, rto_ms, acked, refused, unknown, rpo_rows, direct_rows_lost, dual_primary_ms, redundant_ms: $redundant, moved: $moved, breaches}' \
        "$kept/verdict" | tee -a "$results"
}

# Median, least and greatest of a column, one line a kind of run.
table() {
    jq -rs 'def spread(key): map(.[key]) | sort | "\(.[(length - 1) / 2 | floor]) (\(.[0]) to \(.[-1]))";
        group_by([.settings, .mode, .fault])[] | "| \(.[0].settings), \(.[0].mode) | \(.[0].fault) | \(length) | \(spread("rto_ms")) | \(map(.rpo_rows) | add) of \(map(.acked) | add) | \(map(.direct_rows_lost) | add) | \(spread("dual_primary_ms")) | \(spread("refused")) | \(spread("redundant_ms")) |"' "$results" |
        sed '1i | settings | fault | runs | writes back, ms | acked rows lost | lost on sessions of their own | two writable, ms | refused | redundancy back, ms |\n|---|---|---|---|---|---|---|---|---|'
}

docker build -q --build-arg "BASE=$base" -t "$image" "$here" > /dev/null
umask 077
random() { od -An -tx1 -N12 /dev/urandom | tr -d ' \n'; }
ledger_password=$(random)
cat > "$kept/passwords" << END
PATRONI_SUPERUSER_USERNAME=postgres
PATRONI_SUPERUSER_PASSWORD=$(random)
PATRONI_REPLICATION_USERNAME=replicator
PATRONI_REPLICATION_PASSWORD=$(random)
PATRONI_REWIND_USERNAME=rewinder
PATRONI_REWIND_PASSWORD=$(random)
END
cat > "$kept/ledger" << END
LEDGER_ROUTE=haproxy:5000
LEDGER_MEMBERS=${members[*]}
LEDGER_JOURNAL=/tmp/journal
PGPASSWORD=$ledger_password
END
for setting in "${settings[@]}"; do
    for mode in "${modes[@]}"; do
        stand_up
        for fault in "${faults[@]}"; do
            for _ in $(seq "$runs"); do measure; done
        done
    done
done
table
