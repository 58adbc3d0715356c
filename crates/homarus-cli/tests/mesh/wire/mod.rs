//! What is on the wire between two meshed pods, and who is let in.

mod capture;
mod policy;

use crate::programs::{Meshed, Program, identity, server};
use capture::Capture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::{Value, json};
use std::{net::Ipv4Addr, path::Path};

/// What tcpdump says once it listens.
const LISTENING: &str = "listening on";

/// nginx, HTTP/1.1 at 8080 and HTTP/2 at 8081, whose answers hold a secret; Redis at 7379.
const SERVER: &str = r#"
redis-server --bind 0.0.0.0 --protected-mode no --save '' --dir /tmp --port 7379 &
cat > /tmp/nginx.conf <<CONF
daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
events {}
http {
  access_log off; default_type text/plain;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 8080; listen 8081 http2; location / { add_header x-answer secret; return 200 "a secret answer\n"; }
    location /end { return 200 "the end\n"; } }
}
CONF
exec nginx -c /tmp/nginx.conf
"#;

/// The secret in path, header, body, a value of Redis; the server adds its own.
const CLIENT: &str = r#"
for i in 1 2 3; do
  curl -fsS -m 10 -H 'x-header: secret' -d 'a secret body' http://$SERVER:8080/secret/path
  curl -fsS -m 10 --http2-prior-knowledge -H 'x-header: secret' http://$SERVER:8081/secret/path
  redis-cli -h $SERVER -p 7379 SET name 'a secret value'
done
"#;

/// Adds a container that writes all that passes the pod's link to a file of the machine.
fn with_tcpdump(pod: &mut Value, folder: &Path, file: &str) {
    let tcpdump = json!({
        "name": "tcpdump", "image": "tcpdump",
        "command": ["tcpdump", "-i", "eth0", "-n", "-U", "--immediate-mode", "-Z", "root", "-w", format!("/captures/{file}")],
        "volumeMounts": [{ "name": "captures", "mountPath": "/captures" }],
    });
    pod["containers"].as_array_mut().unwrap().push(tcpdump);
    pod["volumes"] = json!([{ "name": "captures", "hostPath": { "path": folder } }]);
}

/// The pod whose name begins so, and its address.
fn pod(program: &Program, start: &str) -> (String, Ipv4Addr) {
    let all = program.up.ask(program.up.api::<Pod>(program.namespace).list(&ListParams::default())).unwrap();
    let found = all.items.into_iter().find(|pod| pod.metadata.name.as_deref().is_some_and(|name| name.starts_with(start))).unwrap();
    (found.metadata.name.unwrap(), found.status.unwrap().pod_ip.unwrap().parse().unwrap())
}

#[test]
fn the_wire_shows_nothing_but_tls_1_3_with_a_key_exchange_that_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let server = |name: &str, inject: &str| {
        let mut objects = server("wire", name, &[8080, 8081, 7379], SERVER, &json!({ "linkerd.io/inject": inject }));
        with_tcpdump(&mut objects[1]["spec"]["template"]["spec"], folder.path(), &format!("{name}.pcap"));
        objects
    };
    let program = Program::of("wire", &[server("meshed", "enabled"), server("plain", "disabled")]);
    for name in ["meshed", "plain"] {
        let listens = || program.server_said(name, "tcpdump").contains(LISTENING).then_some(());
        program.up.wait_for("tcpdump", listens);
    }
    for way in [Meshed::Both, Meshed::Neither] {
        let name = way.pod();
        program.begin(name, way, CLIENT);
        let said = program.end(name);
        assert_eq!(said.matches("a secret answer").count(), 6, "{said}");
        assert_eq!(said.matches("OK").count(), 3, "{said}");
    }
    // The last to be heard is who has no proxy.
    program.begin("server", Meshed::Server, "curl -fsS -m 10 http://$SERVER:8080/end");
    assert_eq!(program.end("server"), "the end");
    let ((meshed, server), (_, client)) = (pod(&program, "meshed"), pod(&program, "both"));
    let read = |file: &str, last: &[u8]| {
        let whole = || Capture::read(&folder.path().join(file)).filter(|capture| capture.mentions(last).is_some());
        program.up.wait_for(&format!("{:?} in {file}", String::from_utf8_lossy(last)), whole)
    };
    let capture = read("meshed.pcap", b"the end\n");
    assert_eq!(capture.mentions(b"secret"), None);
    let streams = capture.between(client, server);
    assert!(!streams.is_empty(), "{:?}", capture.connections());
    for stream in &streams {
        stream.assert_mesh_tls();
    }
    let (packets, connections) = (capture.packets, streams.len());
    println!("wire: {packets} packets, {connections} connections of {client} to {server}, all TLS 1.3 with X25519MLKEM768");

    // The same way of looking finds what there is to find.
    for secret in [&b"/secret/path"[..], b"x-header: secret", b"a secret body", b"a secret answer", b"a secret value"] {
        read("plain.pcap", secret);
    }

    for (pod, account) in [(meshed.as_str(), "server"), ("both", "client")] {
        let shown = program.up.homarus(&["identity", "-n", "wire", pod]).unwrap();
        let name = identity(account, "wire");
        assert!(shown.contains(&format!("CN={name}")) && shown.contains(&format!("DNS:{name}")), "{shown}");
    }
    program.proven();
}
