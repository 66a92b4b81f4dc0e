#!/bin/sh
# NGINX looks names up when it loads its configuration, only then, and does not load while one is unknown. This looks the
# backends and the member with the pictures up for it and leaves out whoever is not there, so that one that is missing never
# keeps NGINX down.
#
#   nginx.sh start   waits up to 10 s for all of them, then becomes NGINX
#   nginx.sh check   looks them up again and checks the configuration; a SIGHUP then has NGINX use both
set -eu

# One order everywhere for the files of a folder.
export LC_ALL=C
site=/etc/nginx/site
generated=/var/cache/nginx

# Checked by another user (root, by hand), NGINX hands its temporary folders to that user's choice, and what runs answers 500.
if [ "$(id -u)" != "$(stat -c %u /proc/1)" ]; then
    echo "nginx.sh: found user $(id -un), expected $(stat -c %U /proc/1), who runs NGINX" >&2
    exit 77
fi

# write_servers NAMES FILE: writes the addresses of the names; notes where one has none.
write_servers() {
    servers=''
    while read -r name port; do
        # An engine passes names that it does not know on to the outside, which may never answer.
        ip=$(timeout 1 getent ahosts "$name" | { read -r ip rest && echo "$ip"; }) || ip='' missing=1
        loaded="$loaded${loaded:+,}$name=$ip"
        case $ip in
            '') continue ;;
            *:*) ip="[$ip]" ;;
        esac
        # max_fails=0: with few backends, marking them failed after one restart leaves "no live upstreams"; the next one is
        # tried at once instead (server.conf).
        servers="${servers}server $ip:$port max_fails=0; # $name
"
    done < "$1"
    # Without any, static files are still served.
    [ -n "$servers" ] || servers='server 127.0.0.1:1 down;
'
    printf '%s' "$servers" > "$2"
}

# Writes all addresses, and what is about to be loaded; fails where one is missing.
look_up() {
    loaded='' missing=0
    write_servers "$site/backends" "$generated/servers.conf"
    [ ! -e "$site/media" ] || write_servers "$site/media" "$generated/media.conf"
    printf 'default "%s";\n' "$loaded" > "$generated/loaded.conf"
    # NGINX tells it of the configuration that it runs with, which may be another one than lies here by then.
    digest=$(cat /etc/nginx/nginx.conf "$site"/* | sha256sum)
    printf 'default "%s";\n' "${digest%% *}" > "$generated/digest.conf"
    return $missing
}

case ${1:-} in
    start)
        # The first process of a container gets no signal that it does not ask for.
        trap 'exit 0' QUIT TERM INT
        deadline=$(($(date +%s) + 10))
        until look_up || [ "$(date +%s)" -ge $deadline ]; do
            sleep 0.2
        done
        exec nginx
        ;;
    check)
        look_up || true
        exec nginx -t
        ;;
    *)
        echo "nginx.sh: found ${1:-no argument}, expected start or check" >&2
        exit 64
        ;;
esac
