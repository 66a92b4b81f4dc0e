# Somebody's own Redis: over TLS alone, with one user.
umask 077
cd /data
printf '%s\n' "$CRT" > server.crt
printf '%s\n' "$KEY" > server.key
printf 'user default off\nuser shop on >%s ~* &* +@all\n' "$PASSWORD" > users.acl
unset PASSWORD KEY
exec redis-server --port 0 --tls-port 6379 --tls-cert-file /data/server.crt --tls-key-file /data/server.key \
    --tls-auth-clients no --aclfile /data/users.acl --protected-mode no
