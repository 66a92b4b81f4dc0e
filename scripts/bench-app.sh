#!/usr/bin/env bash
# The app beside Django, Django REST framework and gunicorn (benches/django) on one PostgreSQL, one Redis and one NGINX, in
# containers that share one loopback. Same tables and rows, same SQL, the same bytes (compared before anything is measured).
# Orders are those of an account, with its API token; the catalogue is public, and nobody looks at credentials there.
# Prints a line of JSON a run, then tables and gates; ends with 1 when a gate was not reached.
#
#   scripts/bench-app.sh [PATHS]      "list keyset orders outbox"
#   APP       the app, default target/x86_64-unknown-linux-musl/release/app
#   VEGETA    the load tool for fixed rates, default that of the Go module proxy
#   SECS, SWEEP_SECS, WARM_SECS, ROUNDS, SWEEP    8, 4, 2, 3, the settings of gunicorn
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/bench-lib.sh

read -ra paths <<< "${1:-list keyset orders outbox}"
app=${APP:-target/x86_64-unknown-linux-musl/release/app}
secs=${SECS:-8}
sweep_secs=${SWEEP_SECS:-4}
warm_secs=${WARM_SECS:-2}
rounds=${ROUNDS:-3}
read -ra sweep <<< "${SWEEP:-sync-2 sync-3 sync-5 gthread-2x2 gthread-3x4 gthread-4x4}"
prefix=${PREFIX:-bench-app}
base=${BASE:-provisioner/base:trixie}
here=benches/django
clients=32
scale=100000
work=target/$prefix
kept=$(mktemp -d)
results=$kept/results
touch "$results"
declare -A port=([app]=8001 [drf]=8002 [tuned]=8003 [return]=8004 [proxied]=8005)
# Each on an address of its own on the one loopback: a bridge between containers would cost more than what is measured.
declare -A address=([postgres]=127.0.1.1 [redis]=127.0.1.2 [nginx]=127.0.1.3 [app]=127.0.1.4 [drf]=127.0.1.5 [tuned]=127.0.1.6 [relay]=127.0.1.7 [rabbitmq]=127.0.1.8)
declare -A best

newest() {
    local id
    id=$(docker images -q "provisioner/$1" | head -n 1)
    [ -n "$id" ] || { echo "no image provisioner/$1 is there: provisioner up makes it" >&2; exit 1; }
    echo "$id"
}

clean() {
    local name
    for name in "${!address[@]}" load once net; do docker rm -f -v "$prefix-$name" > /dev/null 2>&1 || true; done
}
trap 'clean; docker rmi -f "$prefix-peer:1" "$prefix-load:1" > /dev/null 2>&1 || true; rm -rf "$kept"' EXIT
trap 'exit 1' INT TERM

# start NAME [FILE:PLACE ...] -- what `docker create` takes
start() {
    local name=$1 files=()
    shift
    while [ "$1" != -- ]; do files+=("$1"); shift; done
    shift
    docker rm -f -v "$prefix-$name" > /dev/null 2>&1 || true
    docker create --name "$prefix-$name" --network "container:$prefix-net" --stop-timeout 1 --log-driver json-file --log-opt max-size=1m "$@" > /dev/null
    for file in "${files[@]}"; do docker cp "${file%%:*}" "$prefix-$name:${file#*:}" > /dev/null; done
    docker start "$prefix-$name" > /dev/null
}

sql() { docker exec -i "$prefix-postgres" psql -XqAt -h /tmp -v ON_ERROR_STOP=1 -d shop -c "$1"; }
load() { docker exec "$prefix-load" "$@"; }
answers() { load curl -sf -o /dev/null "$1"; }

# A customer with a token as the app makes them: 256 random bits, of which the table keeps the digest.
customer() {
    local token
    token=$(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
    account=$(sql "WITH who AS (INSERT INTO users (id, email, name, password_hash) VALUES (gen_random_uuid(), 'ada@example.org', 'Ada', '') RETURNING id)
        INSERT INTO api_tokens (id, user_id, name, digest, scopes, expires_at) SELECT gen_random_uuid(), id, 'bench', sha256('$token'), '{order}', now() + interval '1 day' FROM who RETURNING user_id")
    echo "Authorization: Bearer $token" > "$kept/authorization"
    docker cp "$kept/authorization" "$prefix-load:/tmp/authorization" > /dev/null
}

stand_up() {
    local app_env=(-e DATABASE_URL=postgres://postgres@postgres/shop)
    local name hosts=()
    for name in "${!address[@]}"; do hosts+=(--add-host "$name:${address[$name]}"); done
    docker run -d --name "$prefix-net" --hostname bench --network none "${hosts[@]}" "$base" sleep infinity > /dev/null
    start load -- "$prefix-load:1"
    # shellcheck disable=SC2016 # for the shell in the container
    start postgres -- -v /var/lib/postgresql --shm-size 512m "$(newest postgres)" /bin/sh -c 'initdb -A trust -D "$HOME/17" > /dev/null &&
        echo "host all all all trust" >> "$HOME/17/pg_hba.conf" && exec postgres -D "$HOME/17" -c listen_addresses="*" -c unix_socket_directories=/tmp \
        -c shared_buffers=256MB -c max_wal_size=4GB -c checkpoint_timeout=30min -c track_commit_timestamp=on'
    start redis -- "$(newest redis)" redis-server --save '' --protected-mode no
    until_done 60 docker exec "$prefix-postgres" psql -Xq -h /tmp -d postgres -c 'CREATE DATABASE shop'
    for step in migrate "seed --scale $scale"; do
        # shellcheck disable=SC2086 # a command and its arguments
        start once "$app:/tmp/app" -- "${app_env[@]}" "$base" /tmp/app $step
        [ "$(docker wait "$prefix-once")" = 0 ] || { docker logs "$prefix-once" >&2; exit 1; }
    done
    customer
    # Stock for every run, in a table as tight as it was.
    sql "UPDATE inventory SET on_hand = 100000000" && sql "VACUUM FULL inventory" && sql "VACUUM ANALYZE" && sql CHECKPOINT
    sql "SELECT rtrim(translate(encode(convert_to('id:0:' || id, 'UTF8'), 'base64'), '+/', '-_'), '=') FROM products WHERE NOT hidden ORDER BY random()" > "$kept/cursors"
    sql "SELECT format('{\"email\":\"ada@example.org\",\"items\":[{\"sku\":\"PART-%s\",\"qty\":1},{\"sku\":\"PART-%s\",\"qty\":2}]}',
        lpad((1 + floor(random() * $scale / 2))::text, 7, '0'), lpad((1 + $scale / 2 + floor(random() * $scale / 2))::text, 7, '0')) FROM generate_series(1, 50000)" > "$kept/orders"
    docker cp "$kept/cursors" "$prefix-load:/tmp/cursors" > /dev/null
    docker cp "$kept/orders" "$prefix-load:/tmp/orders" > /dev/null
    for path in "${paths[@]}"; do break; done
    serve_app "$path"
    serve drf "$path" sync-2
    serve tuned "$path" sync-2
    sql "SELECT repeat('x', 4500)" > "$kept/page"
    start nginx "$here/nginx.conf:/etc/nginx/nginx.conf" nginx/site/proxy.conf:/etc/nginx/proxy.conf "$kept/page:/tmp/page" -- "$(newest nginx)"
    until_done 20 answers "http://nginx:8001/api/v1/products?limit=1"
}

# The cache is passed over by not being there.
redis_for() { [ "$1" = keyset ] || echo "-e REDIS_URL=redis://redis/"; }

serve_app() {
    # shellcheck disable=SC2046 # two words or none
    start app "$app:/tmp/app" -- --user 10001 -e APP_LOG=warn -e "APP_LISTEN=${address[app]}:8000" -e "APP_METRICS_LISTEN=${address[app]}:9000" \
        -e DATABASE_URL=postgres://postgres@postgres/shop -e DATABASE_REPLICA_URL=postgres://postgres@postgres/shop $(redis_for "$1") "$base" /tmp/app serve
    until_done 20 answers "http://app:8000/readyz"
    find_backends
}

# serve FLAVOUR PATH SETTING, such as sync-3 or gthread-4x4
serve() {
    local workers=(--worker-class "${3%-*}")
    case $3 in
        sync-*) workers+=(--workers "${3#sync-}") ;;
        gthread-*) workers+=(--workers "$(cut -dx -f1 <<< "${3#gthread-}")" --threads "${3#*x}") ;;
    esac
    # shellcheck disable=SC2046 # two words or none
    start "$1" -- -e DJANGO_SETTINGS_MODULE=shop.settings -e "PEER=$1" $(redis_for "$2") "$prefix-peer:1" \
        gunicorn shop.wsgi --bind "${address[$1]}:8000" --keep-alive 75 --worker-tmp-dir /dev/shm --log-level warning "${workers[@]}"
    until_done 20 answers "http://$1:8000/api/v1/products?limit=1"
    find_backends
}

# NGINX looks names up when it loads.
find_backends() {
    docker kill -s HUP "$prefix-nginx" > /dev/null 2>&1 || return 0
    sleep 1
}

# Of members, as a list.
cpus() { for member in "$@"; do cpu "$prefix-$member"; done | jq -cs .; }

url() {
    case $2 in
        list) echo "http://nginx:${port[$1]}/api/v1/products?limit=20" ;;
        *) echo "http://nginx:${port[$1]}/" ;;
    esac
}

empty_orders() {
    [ "$1" != orders ] || sql "TRUNCATE orders, order_items, outbox, idempotency_keys, email_log, stock_movements; CHECKPOINT"
}

# Every order is whole and the account's, whoever took it.
count_orders() {
    [ "$1" != orders ] || [ "$(sql "SELECT (SELECT count(*) FROM order_items) = 2 * n AND (SELECT count(*) FROM outbox) = 3 * n
        AND (SELECT count(*) FROM idempotency_keys WHERE status = 201 AND scope = 'POST /api/v1/orders $account') = n
        AND (SELECT count(*) FROM orders WHERE user_id = '$account') = n AND n > 0 FROM (SELECT count(*) AS n FROM orders)")" = t ] ||
        { echo "orders without lines, events or keys, or of nobody" >&2; exit 1; }
}

# closed KIND SERVER PATH SETTING SECONDS: as many requests as 32 clients get answered
closed() {
    local before after members=("$2" nginx postgres redis)
    [ "$2" != return ] && [ "$2" != proxied ] || members=(nginx nginx postgres redis)
    empty_orders "$3"
    load wrk -t1 "-c$clients" "-d${warm_secs}s" -s /load.lua "$(url "$2" "$3")" -- "$3" > /dev/null
    before=$(cpus "${members[@]}")
    load wrk -t1 "-c$clients" "-d${5}s" -s /load.lua "$(url "$2" "$3")" -- "$3" | tail -n 1 > "$kept/load"
    after=$(cpus "${members[@]}")
    count_orders "$3"
    jq -c --arg kind "$1" --arg server "$2" --arg path "$3" --arg setting "$4" --argjson before "$before" --argjson after "$after" \
        '. as $run | {kind: $kind, path: $path, server: $server, setting: $setting} + .
         + ([["server", "nginx", "postgres", "redis"], $before, $after] | transpose | map({key: (.[0] + "_us"), value: ((.[2] - .[1]) / $run.requests | round)}) | from_entries)' "$kept/load" | tee -a "$results"
}

# open SERVER PATH SETTING RATE: requests come when they come
open() {
    empty_orders "$2"
    if [ "$2" = orders ]; then
        jq -cR --arg url "http://nginx:${port[$1]}/api/v1/orders" --rawfile authorization "$kept/authorization" \
            '{method: "POST", url: $url, body: @base64, header: {"Content-Type": ["application/json"], "Authorization": [$authorization | rtrimstr("\n") | ltrimstr("Authorization: ")]}}' \
            < <(head -n 5000 "$kept/orders")
    else
        jq -cn --arg url "$(url "$1" "$2")" '{method: "GET", url: $url}'
    fi | docker exec -i "$prefix-load" sh -c 'cat > /tmp/targets'
    load /vegeta attack -format=json -targets=/tmp/targets -rate="$4" -duration="${warm_secs}s" > /dev/null
    load sh -c "/vegeta attack -format=json -targets=/tmp/targets -rate=$4 -duration=${secs}s | /vegeta report -type=json" |
        jq -c --arg server "$1" --arg path "$2" --arg setting "$3" '{kind: "open", path: $path, server: $server, setting: $setting, requests, rps: (.throughput * 10 | round / 10),
            p50_ms: (.latencies."50th" / 1e4 | round / 100), p99_ms: (.latencies."99th" / 1e4 | round / 100), errors: (.requests - ([.status_codes | to_entries[] | select(.key | startswith("2")) | .value] | add // 0))}' | tee -a "$results"
}

# The floor: PostgreSQL alone with the same transaction.
floor() {
    empty_orders orders
    # The settings that the app's sessions have in an order.
    docker exec -e PGOPTIONS="-c random_page_cost=1.1" "$prefix-postgres" \
        pgbench -h postgres -n -M prepared -D "account=$account" -D "scope=POST /api/v1/orders $account" -f /tmp/order.sql -c "$1" -j 2 -T "$secs" shop 2> "$kept/pgbench.err" > "$kept/pgbench" ||
        { cat "$kept/pgbench.err" >&2; exit 1; }
    count_orders orders
    jq -cn --arg clients "$1" --argjson tps "$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$kept/pgbench")" '{kind: "closed", path: "orders", server: ("pgbench, " + $clients + " clients"), setting: "", rps: $tps, errors: 0}' | tee -a "$results"
}

# Resident and proportional memory of a server, in KiB; whoever runs it may read it.
memory() {
    # shellcheck disable=SC2016 # for the shell in the container
    docker exec "$prefix-$1" sh -c 'for p in /proc/[0-9]*; do case $(cat $p/comm 2> /dev/null) in app | gunicorn*) cat $p/smaps_rollup ;; esac; done' 2> /dev/null |
        jq -cRn --arg server "$1" --arg setting "${best[$1]:-}" '[inputs | capture("^(?<key>Rss|Pss): +(?<kb>[0-9]+)")] |
            {kind: "memory", server: $server, setting: $setting, rss_kb: (map(select(.key == "Rss").kb | tonumber) | add), pss_kb: (map(select(.key == "Pss").kb | tonumber) | add)}' | tee -a "$results"
}

# order SERVER [OPTIONS OF CURL]: the status, the headers that matter and the body, without what is new each time
order() {
    load curl -s -i -H 'Content-Type: application/json' -d "$(head -n 1 "$kept/orders")" "${@:2}" "http://nginx:${port[$1]}/api/v1/orders" | tr -d '\r' |
        jq -sRr 'split("\n\n") as [$head, $body] | ($head | split("\n")) as $head
            | [$head[0], ($head[] | select(test("^(x-read-after|set-cookie):"; "i")) | ascii_downcase | gsub("[0-9]{20}"; "POSITION"))], ($body | fromjson | (.id, .number, .created_at) |= type)'
}

# refused SERVER STATUS HEADER WHY
refused() {
    local found
    found=$(load curl -s -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' -H "$3" -d "$(head -n 1 "$kept/orders")" "http://nginx:${port[$1]}/api/v1/orders")
    [ "$found" = "$2" ] || { echo "$1 answers $found, expected $2, to an order with $4" >&2; exit 1; }
}

# Nobody is quick by not looking at the token.
guarded() {
    local server change
    for server in app drf tuned; do
        refused "$server" 401 'Authorization: Bearer 0000000000000000000000000000000000000000000' 'a token that nobody made'
        for change in 401:users:is_active=false 401:api_tokens:'expires_at=now()' 403:api_tokens:"scopes='{read}'"; do
            sql "UPDATE $(cut -d: -f2 <<< "$change") SET $(cut -d: -f3 <<< "$change")"
            refused "$server" "${change%%:*}" @/tmp/authorization "a token after ${change#*:}"
            sql "UPDATE users SET is_active = true; UPDATE api_tokens SET expires_at = now() + interval '1 day', scopes = '{order}'"
        done
    done
}

# The same answers, byte for byte; of an order all but what is new each time.
compare() {
    local server query sums
    guarded
    {
        echo 'limit=20'
        printf 'limit=100&sort=price_desc\nbrand=Brand%%2013&sort=price_asc&limit=7\ncategory=burnished-copper&min_price=100000&max_price=150000\nlimit=5&brand=nobody\n'
        head -n 30 "$kept/cursors" | sed 's/^/limit=20\&cursor=/'
    } > "$kept/queries"
    for server in app drf tuned; do
        while read -r query; do load curl -sf "http://nginx:${port[$server]}/api/v1/products?$query" < /dev/null | md5sum; done < "$kept/queries" > "$kept/sums-$server"
        order "$server" -H @/tmp/authorization >> "$kept/sums-$server"
    done
    for server in drf tuned; do
        cmp "$kept/sums-app" "$kept/sums-$server" || { echo "$server does not answer as the app does" >&2; exit 1; }
    done
    sums=$(sort -u "$kept/sums-app" | wc -l)
    [ "$sums" -gt 30 ] || { echo "found $sums different answers, expected more than 30" >&2; exit 1; }
}

measure() {
    local path=$1 flavour setting server
    serve_app "$path"
    for flavour in drf tuned; do
        for setting in "${sweep[@]}"; do
            serve "$flavour" "$path" "$setting"
            closed sweep "$flavour" "$path" "$setting" "$sweep_secs"
        done
        best[$flavour]=$(jq -rs --arg path "$path" --arg server "$flavour" 'map(select(.kind == "sweep" and .path == $path and .server == $server and .errors == 0)) | max_by(.rps).setting' "$results")
        serve "$flavour" "$path" "${best[$flavour]}"
    done
    for _ in $(seq "$rounds"); do
        for server in app drf tuned; do closed closed "$server" "$path" "${best[$server]:-}" "$secs"; done
        case $path in
            list) for server in return proxied; do closed closed "$server" constant '' 3; done ;;
            orders) for server in 16 32; do floor "$server"; done ;;
        esac
    done
    case $path in
        list) for server in app drf tuned; do memory "$server"; done ;;&
        list | orders)
            for _ in $(seq "$rounds"); do
                for server in app drf tuned; do open "$server" "$path" "${best[$server]:-}" "$([ "$path" = list ] && echo 1000 || echo 100)"; done
            done
            ;;
    esac
}

# From the commit of an order to the commit that marks its event as confirmed by the broker, by PostgreSQL's own times.
outbox() {
    serve_app orders
    start rabbitmq "$here/rabbitmq.conf:/etc/rabbitmq/rabbitmq.conf" "$here/definitions.json:/etc/rabbitmq/definitions.json" -- "$(newest rabbitmq)"
    until_done 120 docker exec "$prefix-rabbitmq" rabbitmqctl -q list_queues
    start relay "$app:/tmp/app" -- --user 10001 -e APP_LOG=warn -e "APP_METRICS_LISTEN=${address[relay]}:9000" -e DATABASE_URL=postgres://postgres@postgres/shop -e REDIS_URL=redis://redis/ \
        -e AMQP_URL=amqp://bench:bench@rabbitmq/%2f "$base" /tmp/app relay
    until_done 60 answers "http://relay:9000/readyz"
    for _ in $(seq "$rounds"); do
        open app orders '' 100
        until_done 30 is_published
        sql "SELECT json_build_object('kind', 'outbox', 'path', 'outbox', 'server', 'app', 'orders', count(*), 'p50_ms', percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), 'p99_ms', percentile_cont(0.99) WITHIN GROUP (ORDER BY ms), 'max_ms', max(ms))
            FROM (SELECT extract(epoch FROM pg_xact_commit_timestamp(e.xmin) - pg_xact_commit_timestamp(o.xmin)) * 1000 AS ms
                FROM outbox e JOIN orders o ON o.id::text = e.aggregate_id WHERE e.topic = 'email.send_order_confirmation' AND e.published_at IS NOT NULL)" | jq -c . | tee -a "$results"
    done
}

is_published() { [ "$(sql 'SELECT count(*) FROM outbox WHERE published_at IS NULL')" = 0 ]; }

# Nothing, which reaches no gate, where one of them was not measured.
ratio() { jq -n --argjson a "$1" --argjson b "$2" 'if $a == null or ($b // 0) == 0 then null else $a / $b end'; }

tables() {
    local path server
    echo
    jq -rs 'def spread(key): map(.[key]) | sort | if .[0] == null then "" else "\(.[(length - 1) / 2 | floor] * 100 | round / 100) (\(.[0] * 100 | round / 100) to \(.[-1] * 100 | round / 100))" end;
        map(select(.kind == "closed" or .kind == "open" or .kind == "outbox")) | group_by([.path, .kind, .server])[] |
        "| \(.[0].path), \(.[0].kind) | \(.[0].server) \(.[0].setting // "") | \(spread("rps")) | \(spread("p50_ms")) | \(spread("p99_ms")) | \(spread("server_us")) | \(spread("nginx_us")) | \(spread("postgres_us")) | \(spread("redis_us")) | \(map(.errors // 0) | add) |"' "$results" |
        sed '1i | path | server | requests/s | p50, ms | p99, ms | CPU us/request | NGINX | PostgreSQL | Redis | errors |\n|---|---|---|---|---|---|---|---|---|---|'
    jq -rs 'map(select(.kind == "memory"))[] | "| memory | \(.server) \(.setting) | \(.rss_kb / 1024 | round) MiB resident | \(.pss_kb / 1024 | round) MiB proportional |"' "$results"
    echo
    jq -rs 'map(select(.kind == "sweep")) | group_by([.path, .server])[] | "| \(.[0].path) | \(.[0].server) | \(map("\(.setting) \(.rps | round)") | join(", ")) |"' "$results" |
        sed '1i | path | peer | requests/s by setting |\n|---|---|---|'
    echo
    echo '| gate | found | limit | |'
    echo '|---|---|---|---|'
    for path in "${paths[@]}"; do
        case $path in
            list)
                gate 'cached list, requests/s, times DRF' "$(ratio "$(median rps closed list app)" "$(median rps closed list drf)")" at-least 15
                gate 'cached list, requests/s, times tuned Django' "$(ratio "$(median rps closed list app)" "$(median rps closed list tuned)")" at-least 10
                gate 'cached list, CPU a request, of DRF' "$(ratio "$(median server_us closed list app)" "$(median server_us closed list drf)")" at-most 0.05
                gate 'p99 at 1,000 lists/s, of DRF' "$(ratio "$(median p99_ms open list app)" "$(median p99_ms open list drf)")" at-most 0.2
                gate 'resident memory (RSS), of gunicorn (DRF) in total' "$(ratio "$(median rss_kb memory list app)" "$(median rss_kb memory list drf)")" at-most 0.2
                # What gunicorn's workers share is counted once: the harder one for the app.
                gate 'proportional memory (PSS), of gunicorn (DRF) in total' "$(ratio "$(median pss_kb memory list app)" "$(median pss_kb memory list drf)")" at-most 0.2
                ;;
            keyset)
                gate 'keyset list, requests/s, times DRF' "$(ratio "$(median rps closed keyset app)" "$(median rps closed keyset drf)")" at-least 8
                gate 'keyset list, CPU a request, of DRF' "$(ratio "$(median server_us closed keyset app)" "$(median server_us closed keyset drf)")" at-most 0.125
                ;;
            orders)
                gate 'orders/s, times DRF' "$(ratio "$(median rps closed orders app)" "$(median rps closed orders drf)")" at-least 5
                gate 'orders, CPU a request, of DRF' "$(ratio "$(median server_us closed orders app)" "$(median server_us closed orders drf)")" at-most 0.2
                for server in 16 32; do
                    gate "orders/s, of pgbench with $server clients" "$(ratio "$(median rps closed orders app)" "$(median rps closed orders "pgbench, $server clients")")" at-least 0.45
                done
                ;;
            outbox) gate 'commit to published, p99, ms, at 100 orders/s' "$(median p99_ms outbox outbox app)" at-most 250 ;;
        esac
    done
    gate 'errors' "$(jq -s 'map(select(.kind != "sweep") | .errors // 0) | add' "$results")" at-most 0
}

[ -x "$app" ] || { echo "found no program $app: cargo build --release -p app --target x86_64-unknown-linux-musl makes it (as make bench does)" >&2; exit 1; }
mkdir -p "$work/wheels"
if [ -z "${VEGETA:-}" ]; then
    VEGETA=$PWD/$work/vegeta
    [ -x "$VEGETA" ] || GOBIN=$PWD/$work CGO_ENABLED=0 go install github.com/tsenart/vegeta/v12@v12.12.0
fi
cp -r "$here/." "$work/"
cmp -s "$VEGETA" "$work/vegeta" || cp "$VEGETA" "$work/vegeta"
cp "$here/requirements.txt" "$work/wheels/"
python3 -m pip download -q -d "$work/wheels" -r "$here/requirements.txt" --only-binary=:all: \
    --python-version 3.13 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --platform any
docker build -q --build-arg "BASE=$base" -t "$prefix-peer:1" "$work" > /dev/null
docker build -q --build-arg "BASE=$base" -t "$prefix-load:1" -f "$work/load.Dockerfile" "$work" > /dev/null
clean
stand_up
docker cp -q "$here/order.sql" "$prefix-postgres:/tmp/order.sql" 2> /dev/null || docker cp "$here/order.sql" "$prefix-postgres:/tmp/order.sql" > /dev/null
compare
for path in "${paths[@]}"; do
    if [ "$path" = outbox ]; then outbox; else measure "$path"; fi
done
tables
if [ -n "${RESULTS:-}" ]; then cp "$results" "$RESULTS"; fi
gates_reached
