//! Whose client speaks first: HTTP, and what is not HTTP.

use super::Program;

/// nginx with HTTP/1.1 at 8080 and HTTP/2 at 8081.
pub const NGINX: &str = r#"
cat > /tmp/nginx.conf <<CONF
daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
events {}
http {
  access_log off; keepalive_requests 1000000; default_type text/plain;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 8080; listen 8081 http2; location / { return 200 "\$server_port \$server_protocol\n"; } }
}
CONF
exec nginx -c /tmp/nginx.conf
"#;

#[test]
fn nginx_with_curl_wrk_and_h2load() {
    let program = Program::start("nginx", &[8080, 8081], NGINX);
    let client = r#"
curl -fsS -m 10 http://$SERVER:8080/
curl -fsS -m 10 --http2-prior-knowledge http://$SERVER:8081/
wrk -t 1 -c 8 -d 1s http://$SERVER:8080/
h2load --h1 -n 400 -c 4 http://$SERVER:8080/
h2load -n 400 -c 2 -m 10 http://$SERVER:8081/
"#;
    for (way, said) in program.every_way(client) {
        assert!(said.starts_with("8080 HTTP/1.1\n8081 HTTP/2.0\n"), "{way}: {said}");
        assert!(said.contains("requests in") && !said.contains("Non-2xx") && !said.contains("Socket errors"), "{way}: {said}");
        let load = "400 total, 400 started, 400 done, 400 succeeded, 0 failed, 0 errored, 0 timeout";
        assert_eq!(said.matches(load).count(), 2, "{way}: {said}");
        assert_eq!(said.matches("status codes: 400 2xx, 0 3xx, 0 4xx, 0 5xx").count(), 2, "{way}: {said}");
    }
    program.requests(802.0);
}

#[test]
fn redis_at_its_own_port_and_at_another() {
    // 6379 is opaque by default; at 7379 the client's first bytes have to tell.
    let server = "
cd /tmp
redis-server --bind 0.0.0.0 --protected-mode no --save '' --port 7379 &
exec redis-server --bind 0.0.0.0 --protected-mode no --save '' --port 6379
";
    let program = Program::start("redis", &[6379, 7379], server);
    let client = r#"
for port in 6379 7379; do
  redis="redis-cli -h $SERVER -p $port"
  $redis SET $HOSTNAME "value of $HOSTNAME"
  $redis GET $HOSTNAME
  head -c 1000000 /dev/zero | tr '\0' x | $redis -x SET big-$HOSTNAME
  $redis GET big-$HOSTNAME | wc -c
  seq 1000 | sed "s/.*/INCR count-$HOSTNAME/" | $redis | tail -n 1
  redis-benchmark -h $SERVER -p $port -q -n 1000 -c 8 -t get > /dev/null
done
"#;
    for (way, said) in program.every_way(client) {
        let each = ["OK", &format!("value of {way}"), "OK", "1000001", "1000"];
        assert_eq!(said.lines().collect::<Vec<_>>(), [each, each].concat(), "{way}");
    }
}

#[test]
fn postgresql_with_psql() {
    // It refuses to run as root. 5433 is not opaque by default: psql's eight first bytes have to tell.
    let server = r#"
mkdir /tmp/pg && chown postgres /tmp/pg
exec setpriv --reuid postgres --regid postgres --clear-groups sh -c '
  bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
  $bin/initdb -D /tmp/pg/data -A trust --no-sync
  echo "host all all all trust" >> /tmp/pg/data/pg_hba.conf
  exec $bin/postgres -D /tmp/pg/data -c listen_addresses="*" -c port=5433 -c unix_socket_directories=/tmp -c fsync=off
'
"#;
    let program = Program::start("postgresql", &[5433], server);
    let client = r#"
export PGCONNECT_TIMEOUT=10
psql="psql -h $SERVER -p 5433 -U postgres -Atq"
$psql -c "CREATE TABLE of_$HOSTNAME AS SELECT n FROM generate_series(1, 100000) n"
$psql -c "SELECT sum(n), count(*) FROM of_$HOSTNAME"
$psql -c "COPY of_$HOSTNAME TO STDOUT" | wc -l
seq 5000 | $psql -c "COPY of_$HOSTNAME FROM STDIN"
$psql -c "SELECT count(*) FROM of_$HOSTNAME"
"#;
    for (way, said) in program.every_way(client) {
        assert_eq!(said.lines().collect::<Vec<_>>(), ["5000050000|100000", "100000", "105000"], "{way}");
    }
}

#[test]
fn s46_rabbitmq_and_its_clients_exchange_messages() {
    let server = r#"
cd /tmp
cat > rabbitmq.conf <<CONF
listeners.tcp.default = 5672
loopback_users = none
log.console = true
log.file = false
CONF
echo '[].' > plugins
export HOME=/tmp RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_CONFIG_FILE=/tmp/rabbitmq RABBITMQ_ENABLED_PLUGINS_FILE=/tmp/plugins
export RABBITMQ_MNESIA_BASE=/tmp/mnesia RABBITMQ_LOG_BASE=/tmp/log RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 1:1 +sbwt none'
exec /usr/lib/rabbitmq/bin/rabbitmq-server
"#;
    let program = Program::start("rabbitmq", &[5672], server);
    // One that waits before there is anything to hear, one that speaks.
    let client = r#"
url=amqp://guest:guest@$SERVER:5672
amqp-declare-queue --url $url -q $HOSTNAME
timeout 30 amqp-consume --url $url -q $HOSTNAME -c 3 cat &
for i in 1 2 3; do
  echo "message $i for $HOSTNAME" | amqp-publish --url $url -r $HOSTNAME
done
wait $!
"#;
    for (way, said) in program.every_way(client) {
        let messages: Vec<_> = said.lines().filter(|line| line.starts_with("message")).collect();
        assert_eq!(messages, [1, 2, 3].map(|i| format!("message {i} for {way}")), "{said}");
    }
}
