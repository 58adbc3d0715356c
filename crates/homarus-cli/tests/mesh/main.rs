#![allow(clippy::unwrap_used)]
//! Scenarios of a whole mesh on this machine: `homarus up` as its user runs it, unmodified programs in pods, real
//! redirection, real certificates. Needs root. Numbers in names are those of the acceptance list.

mod programs;
mod up;
mod wire;

use up::{Up, docs};

/// A server that answers with its own name, and what it needs.
fn web(namespace: &str, name: &str, meshed: bool) -> String {
    let inject = if meshed { "enabled" } else { "disabled" };
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata:
      labels: {{app: {name}}}
      annotations: {{linkerd.io/inject: {inject}}}
    spec:
      serviceAccountName: {name}
      containers:
      - name: web
        image: nginx
        command: [sh, -c]
        args:
        - |
          mkdir -p /tmp/www/logs && echo {name}-says-hello > /tmp/www/index.html
          cat > /tmp/nginx.conf <<CONF
          daemon off; pid /tmp/nginx.pid; error_log /tmp/www/logs/error.log;
          events {{}}
          http {{ access_log off; client_body_temp_path /tmp/www/b; proxy_temp_path /tmp/www/p; fastcgi_temp_path /tmp/www/f;
            uwsgi_temp_path /tmp/www/u; scgi_temp_path /tmp/www/s; server {{ listen 8080; root /tmp/www; }} }}
          CONF
          exec nginx -c /tmp/nginx.conf
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
"#
    )
}

#[test]
fn the_demo_shows_its_deliberate_fault() {
    let up = Up::shared();
    up.apply(&docs(include_str!("../../../../examples/emojivoto.yml")));
    for name in ["web", "emoji", "voting", "vote-bot"] {
        up.wait_for_deployment("emojivoto", name);
    }
    let rows = up.wait_for("a row per deployment, with the fault", || {
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(&up.homarus(&["stat", "deploy", "-n", "emojivoto", "-t", "5s", "-o", "json"]).ok()?).ok()?;
        let voting = rows.iter().find(|r| r["name"] == "voting")?;
        (voting["success"].as_f64()? < 1.0).then_some(rows)
    });
    assert_eq!(rows.len(), 4, "{rows:?}");
    assert!(rows.iter().all(|r| r["meshed"] == "1/1"), "{rows:?}");
    let checked = up.homarus(&["check", "--proxy", "-n", "emojivoto"]).unwrap();
    assert!(checked.contains("Status check results are √"), "{checked}");
}

#[test]
fn unmeshed_pods_work_both_ways() {
    let up = Up::shared();
    up.apply(&docs(&web("plain", "meshed", true)));
    up.apply(&docs(&web("plain", "unmeshed", false)));
    up.wait_for_deployment("plain", "meshed");
    up.wait_for_deployment("plain", "unmeshed");
    assert_eq!(up.run("plain", "default", false, "curl -s -m 10 http://meshed"), "meshed-says-hello");
    assert_eq!(up.run("plain", "default", true, "curl -s -m 10 http://unmeshed"), "unmeshed-says-hello");
    assert_eq!(up.run("plain", "default", true, "curl -s -m 10 http://meshed.plain.svc.cluster.local"), "meshed-says-hello");
    // Two meshed pods: the server knows its client by name.
    let metrics = up.homarus(&["diagnostics", "proxy-metrics", "-n", "plain", "deploy/meshed"]).unwrap();
    let known = "client_id=\"default.plain.serviceaccount.identity.linkerd.cluster.local\"";
    assert!(metrics.contains(known), "no {known} in:\n{metrics}");
}
