# Somebody's own RabbitMQ: over TLS alone, with a virtual host that has nothing in it.
umask 077
export HOME=/var/lib/rabbitmq RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_LOG=-color
export RABBITMQ_CONFIG_FILE=$HOME/rabbitmq.conf RABBITMQ_ENABLED_PLUGINS_FILE=$HOME/plugins
cd "$HOME"
printf '%s\n' "$CRT" > server.crt
printf '%s\n' "$KEY" > server.key
echo '[rabbitmq_management].' > plugins
cat > rabbitmq.conf <<CONF
listeners.tcp = none
listeners.ssl.default = 5671
ssl_options.certfile = $HOME/server.crt
ssl_options.keyfile = $HOME/server.key
management.ssl.port = 15671
management.ssl.certfile = $HOME/server.crt
management.ssl.keyfile = $HOME/server.key
default_vhost = shop
default_user = shop
default_pass = $PASSWORD
default_user_tags.administrator = true
vm_memory_high_watermark.absolute = 400MB
disk_free_limit.absolute = 100MB
raft.wal_max_size_bytes = 33554432
log.console = true
log.file = false
CONF
unset PASSWORD KEY
exec rabbitmq-server
