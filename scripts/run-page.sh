#!/usr/bin/env bash
# scripts/run-page.sh PAGE: runs every command of a page, the lines that begin with `$ ` in its blocks, one after the other in
# one shell, and prints them with what they say. Ends with the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."

page=${1:?name a page such as docs/getting-started.md}
commands=$(mktemp)
trap 'rm -f "$commands"' EXIT
awk '
    /^```/ { inside = !inside; going = 0; next }
    !inside { next }
    sub(/^\$ /, "") { going = 1 }
    going { line = $0; going = sub(/\\$/, "", line); command = command line
            if (!going) { print command; command = "" } }
' "$page" > "$commands"
[ -s "$commands" ] || { echo "error: $page has no line that begins with \$ in a block" >&2; exit 64; }

# Pages end with the removal of what they made; what somebody else made must not go with it.
if command -v docker > /dev/null && [ -n "$(docker ps -aq --filter label=provisioner.stack=dev 2> /dev/null)" ]; then
    # Nobody keeps a stack on a machine of CI; one that is there was left by a run that was cut off.
    if [ "${CI:-}" = true ]; then
        make --no-print-directory down VOLUMES=1
    else
        echo 'error: a stack dev is there, and the page would remove it with its data: provisioner down --volumes --env dev' >&2
        exit 71
    fi
fi

export CI=true
while IFS= read -r command <&3; do
    printf '\n$ %s\n' "$command"
    eval "$command" 2>&1 || { status=$?; printf 'error: %s: ended with %s\n' "$command" "$status" >&2; exit 1; }
done 3< "$commands"
