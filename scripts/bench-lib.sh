# shellcheck shell=bash
# What benchmarks share: sourced, with $results a file of one JSON object a run.

tick_us=$((1000000 / $(getconf CLK_TCK)))

# Waits up to $1 s until the rest of the line succeeds.
until_done() {
    local limit=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$limit" ] || { echo "no end: $*" >&2; exit 1; }
        sleep 0.1
    done
}

# Processor time of all processes of a container, in microseconds.
cpu() {
    docker top "$1" -eo pid | awk 'NR > 1 { print "/proc/" $1 "/stat" }' | xargs cat 2> /dev/null | sed 's/^.*) //' |
        awk -v tick="$tick_us" '{ sum += $12 + $13 } END { printf "%d\n", sum * tick }'
}

# median COLUMN KIND PATH SERVER
median() {
    jq -rs --arg column "$1" --arg kind "$2" --arg path "$3" --arg server "$4" \
        'map(select(.kind == $kind and (.path // $path) == $path and .server == $server)[$column]) | sort | .[(length - 1) / 2 | floor]' "${results:?}"
}

# How long a command takes.
milliseconds() {
    local begin=$EPOCHREALTIME
    "$@"
    local end=$EPOCHREALTIME
    echo $(((${end/./} - ${begin/./}) / 1000))
}

# The median of numbers, a line each.
middle() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

# spread WHAT FILE: a line about a file of milliseconds.
spread() {
    printf '  %-44s median %5s ms (min %s, max %s)\n' "$1" "$(middle < "$2")" "$(sort -n "$2" | head -n 1)" "$(sort -n "$2" | tail -n 1)"
}

missed=()

# gate WHAT FOUND at-most|at-least LIMIT
gate() {
    local row
    row=$(jq -rn --arg what "$1" --argjson found "$2" --arg way "$3" --argjson limit "$4" \
        '($found != null and (if $way == "at-most" then $found <= $limit else $found >= $limit end)) as $ok |
         "| \($what) | \(if $found == null then "nothing" else $found * 1000 | round / 1000 end) | \($way | sub("-"; " ")) \($limit) | \(if $ok then "reached" else "**not reached**" end) |"')
    echo "$row"
    case $row in *'**not reached**'*) missed+=("$1") ;; esac
}

# The last word of a benchmark, once everything was told.
gates_reached() {
    ((${#missed[@]} == 0)) || { printf 'gate not reached: %s\n' "${missed[@]}" >&2; exit 1; }
}
