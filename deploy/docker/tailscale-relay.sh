#!/bin/sh
# Listens in the network of the tailscale service, and hands each connection on to the upstream in the tailnet, as it is.
set -eu
umask 077
: "${UPSTREAM_ADDRESS:?tailscale-relay.sh: TAILSCALE_UPSTREAM_ADDRESS is not set: the address of the upstream, 100.x.y.z}"
: "${UPSTREAM_PORT:?tailscale-relay.sh: TAILSCALE_UPSTREAM_PORT is not set}"
cat > /tmp/nginx.conf <<END
pid /tmp/nginx.pid;
error_log stderr warn;
worker_processes 1;
events {
    worker_connections 4096;
}
stream {
    server {
        listen $UPSTREAM_PORT;
        proxy_pass $UPSTREAM_ADDRESS:$UPSTREAM_PORT;
        proxy_connect_timeout 5s;
        # The gateway has its own limits of time; a quiet WebSocket may last.
        proxy_timeout 1h;
        proxy_socket_keepalive on;
    }
}
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server {
        listen 127.0.0.1:9003;
        return 204;
    }
}
END
exec nginx -e stderr -c /tmp/nginx.conf -g 'daemon off;'
