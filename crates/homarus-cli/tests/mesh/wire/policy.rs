//! Who is let in, by default and by policies, and what becomes of connections that were open when a policy came.

use super::SERVER;
use crate::{
    programs::{Meshed, Program, server},
    up::docs,
};
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A policy is told to a proxy within milliseconds; this is so long that only who waits for something else takes longer.
const AT_ONCE: Duration = Duration::from_secs(5);

#[test]
fn all_authenticated_refuses_the_unmeshed_at_once() {
    let annotations = json!({ "linkerd.io/inject": "enabled", "config.linkerd.io/default-inbound-policy": "all-authenticated" });
    let program = Program::of("strict", &[server("strict", "meshed", &[8080, 8081, 7379], SERVER, &annotations)]);
    let client = r#"
curl -sS -m 10 -o /dev/null -w '%{http_code}\n' http://$SERVER:8080/
curl -sS -m 10 --http2-prior-knowledge -o /dev/null -w '%{http_code}\n' http://$SERVER:8081/
timeout 10 redis-cli -h $SERVER -p 7379 PING 2>&1 || echo "refused with $?"
"#;
    program.begin("both", Meshed::Both, client);
    program.begin("server", Meshed::Server, client);
    assert_eq!(program.end("both").lines().collect::<Vec<_>>(), ["200", "200", "PONG"]);
    let refused = program.end("server");
    // 124 would be the time that is up.
    assert!(refused.starts_with("403\n403\n") && refused.ends_with("refused with 1"), "{refused}");
    program.proven();
}

/// Holds a connection of HTTP/1.1, with a request every tenth of a second, and one of Redis that waits for news.
const HOLD: &str = r#"
{
  redis-cli -h $SERVER -p 7379 SUBSCRIBE news 2>&1 || true
  echo "redis ended at $(date +%s%3N)"
} &
curl -sS --fail --fail-early --rate 10/s -o /dev/null -w '%{stderr}http %{http_code}, %{num_connects} new\n' "http://$SERVER:8080/[1-3000]" || true
echo "http ended at $(date +%s%3N)"
wait
"#;

fn since(begin: SystemTime, said: &str, what: &str) -> i128 {
    let at = said.lines().find_map(|line| line.strip_prefix(&format!("{what} ended at "))).unwrap_or_else(|| panic!("{said}"));
    at.parse::<i128>().unwrap() - i128::try_from(begin.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn a_policy_cuts_connections_that_were_open() {
    let annotations = json!({ "linkerd.io/inject": "enabled" });
    let program = Program::of("open", &[server("open", "meshed", &[8080, 8081, 7379], SERVER, &annotations)]);
    let holders =
        [("friend", "friend", Meshed::Both), ("stranger", "client", Meshed::Both), ("unmeshed", "client", Meshed::Server)];
    for (name, account, way) in holders {
        program.begin_as(account, name, way, HOLD);
    }
    for (name, ..) in holders {
        let open = |said: &String| said.contains("subscribe") && said.contains("http 200, 0 new");
        program.up.wait_for(&format!("open connections of {name}"), || program.said(name).filter(open));
    }
    let policies = docs(POLICIES);
    let begin = SystemTime::now();
    program.up.apply(&policies);
    for name in ["stranger", "unmeshed"] {
        let said = program.end(name);
        let last = said.lines().filter(|line| line.starts_with("http ")).rfind(|line| line.contains("new")).unwrap();
        // On the connection that was open.
        assert_eq!(last, "http 403, 0 new", "{name}: {said}");
        let (http, redis) = (since(begin, &said, "http"), since(begin, &said, "redis"));
        assert!(http.max(redis) < i128::try_from(AT_ONCE.as_millis()).unwrap(), "{name}: http {http} ms, redis {redis} ms");
        println!("open connections of {name}: refused {http} ms (HTTP/1.1) and {redis} ms (Redis) after the policy was sent");
    }
    // Whom the policy names goes on, on the connections that it has.
    program.begin_as("friend", "herald", Meshed::Both, "redis-cli -h $SERVER -p 7379 PUBLISH news 'still here'");
    assert_eq!(program.end("herald"), "1");
    let said = program.up.wait_for("news", || program.said("friend").filter(|said| said.contains("still here")));
    assert!(!said.contains("ended at") && !said.contains("403"), "{said}");
    let requests: Vec<_> = said.lines().filter(|line| line.starts_with("http ")).collect();
    assert!(requests[1..].iter().all(|line| *line == "http 200, 0 new"), "{said}");
}

const POLICIES: &str = r#"
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: friend, namespace: open}
spec: {identityRefs: [{kind: ServiceAccount, name: friend}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: http, namespace: open}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: http}
  requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: friend}]
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: redis, namespace: open}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: redis}
  requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: friend}]
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: http, namespace: open}
spec: {podSelector: {matchLabels: {app: meshed}}, port: 8080, proxyProtocol: HTTP/1}
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: redis, namespace: open}
spec: {podSelector: {matchLabels: {app: meshed}}, port: 7379}
"#;
