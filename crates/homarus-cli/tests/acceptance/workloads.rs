//! Every kind of workload and of Service in the mesh: they begin in order, are found by their names, and end.

use crate::{
    clients,
    cluster::{cluster, eventually},
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::{CronJob, Job, JobCondition},
    core::v1::Pod,
};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

const IMAGE: &str = "localhost/test-programs:local";
/// Answers a request with the name of its pod, after as many seconds as its argument says.
const ANSWER: &str = r#"
while read -r line; do [ "${#line}" -le 1 ] && break; done
[ -z "$1" ] || { echo asked >&2; sleep "$1"; }
printf 'HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s' "${#HOSTNAME}" "$HOSTNAME"
"#;

/// A meshed namespace with the script that servers run.
fn namespace(name: &str, annotations: &Value) {
    let mut all = json!({ "linkerd.io/inject": "enabled" });
    all.as_object_mut().unwrap().extend(annotations.as_object().unwrap().clone());
    cluster().apply_all(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "annotations": all } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "answer", "namespace": name }, "data": { "answer": ANSWER } }),
    ]);
}

/// A server's pods.
fn template(app: &str, annotations: Value, more: Value) -> Value {
    let mut server = json!({
        "name": "server", "image": IMAGE, "command": ["socat", "TCP-LISTEN:8080,fork,reuseaddr", "SYSTEM:sh /config/answer"],
        "ports": [{ "name": "odd", "containerPort": 8080 }],
        "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
        "volumeMounts": [{ "name": "config", "mountPath": "/config" }],
    });
    for (field, value) in more.as_object().unwrap() {
        server[field] = value.clone();
    }
    let volumes = json!([{ "name": "config", "configMap": { "name": "answer" } }]);
    json!({
        "metadata": { "labels": { "app": app, "part-of": app.split('-').next() }, "annotations": annotations },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [server], "volumes": volumes },
    })
}

fn deployment(namespace: &str, name: &str, template: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": namespace },
        "spec": { "selector": { "matchLabels": { "app": name } }, "template": template },
    })
}

fn service(namespace: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace }, "spec": spec })
}

fn get(url: &str) -> String {
    clients().friend.run(&format!("curl -s -m 20 {url}"))
}

/// A Job's spec that asks the mesh once, at once, and then ends.
fn asks_once(annotations: &Value, then: &str) -> Value {
    let script = format!("curl -sf -m 20 http://web.apps || exit 1; {then}");
    json!({
        "backoffLimit": 0,
        "template": {
            "metadata": { "annotations": annotations },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "asks", "image": IMAGE, "command": ["sh", "-c", script] }] },
        },
    })
}

/// Waits for a Job's end, whichever it is.
fn ended(namespace: &str, name: &str) -> JobCondition {
    let api: Api<Job> = cluster().api(namespace);
    eventually(&format!("the end of job {name}"), || {
        let conditions = cluster().ask(api.get(name)).ok()?.status?.conditions?;
        conditions
            .into_iter()
            .find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")
    })
}

/// Waits for a Job's end, which must be a good one, of a pod that was in the mesh.
fn completes(namespace: &str, name: &str) {
    let ended = ended(namespace, name);
    let pods: Api<Pod> = cluster().api(namespace);
    let of = ListParams::default().labels(&format!("job-name={name}"));
    let pods = cluster().ask(pods.list(&of)).unwrap().items;
    assert_eq!(ended.type_, "Complete", "{ended:?}\n{pods:#?}");
    assert!(pods.iter().all(|pod| pod.labels().contains_key("linkerd.io/control-plane-ns")), "{pods:#?}");
}

#[test]
fn jobs_end_and_their_first_request_finds_the_proxy_ready() {
    cluster().wait_for_deployment("apps", "web");
    namespace("work", &json!({}));
    let job = |name: &str, spec: Value| {
        let metadata = json!({ "name": name, "namespace": "work" });
        cluster().apply_all(&[json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec })]);
    };
    job("native", asks_once(&json!({}), "true"));
    // Where there are no native sidecars, the job tells its proxy.
    let without = json!({
        "config.linkerd.io/proxy-enable-native-sidecar": "false",
        "config.linkerd.io/proxy-admin-shutdown": "enabled",
    });
    job("plain", asks_once(&without, "curl -sf -X POST http://127.0.0.1:4191/shutdown"));
    // And one that knows nothing of a proxy: the control plane sees that only that is left, and says so.
    let unaware = json!({ "config.linkerd.io/proxy-enable-native-sidecar": "false" });
    job("unaware", asks_once(&unaware, "true"));
    job("failing", asks_once(&unaware, "exit 3"));
    completes("work", "native");
    completes("work", "plain");
    completes("work", "unaware");
    assert_eq!(ended("work", "failing").type_, "Failed", "and a failure is one");
}

#[test]
fn cron_jobs_begin_and_end() {
    cluster().wait_for_deployment("apps", "web");
    namespace("clockwork", &json!({}));
    cluster().apply_all(&[json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "tick", "namespace": "clockwork" },
        "spec": { "schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": { "spec": asks_once(&json!({}), "true") } },
    })]);
    let jobs: Api<Job> = cluster().api("clockwork");
    let name = eventually("a job of the cron job", || {
        Some(cluster().ask(jobs.list(&ListParams::default())).ok()?.items.first()?.name_any())
    });
    assert!(name.starts_with("tick-"), "{name}");
    completes("clockwork", &name);
    let api: Api<CronJob> = cluster().api("clockwork");
    eventually("its success", || cluster().ask(api.get("tick")).ok()?.status?.last_successful_time);
    cluster().ask(api.delete("tick", &DeleteParams::background())).unwrap();
}

#[test]
fn a_pod_ends_after_its_connections() {
    namespace("draining", &json!({}));
    // Answers take a while; told to end, it takes no more, and waits for those.
    let script = "trap 'kill $!; sleep 10; exit' TERM; socat TCP-LISTEN:8080,fork,reuseaddr 'SYSTEM:sh /config/answer 5' & wait";
    let mut pods = template("slow", json!({}), json!({ "command": ["sh", "-c", script] }));
    pods["spec"]["terminationGracePeriodSeconds"] = 30.into();
    pods["spec"]["containers"][0]["readinessProbe"] = Value::Null;
    cluster().apply_all(&[
        deployment("draining", "slow", pods),
        service("draining", "slow", json!({ "selector": { "app": "slow" }, "ports": [{ "port": 80, "targetPort": 8080 }] })),
    ]);
    cluster().wait_for_deployment("draining", "slow");
    clients().friend.wait_for_status("http://slow.draining", "200");
    let name = cluster().pods("draining", "slow")[0].name_any();
    let times_asked = || cluster().logs("draining", &name, "server").lines().filter(|line| line.contains("asked")).count();
    let before = times_asked();
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| get("http://slow.draining"));
        eventually("the request at the server", || (times_asked() > before).then_some(()));
        let api: Api<Pod> = cluster().api("draining");
        cluster().ask(api.delete(&name, &DeleteParams::default())).unwrap();
        asked.join().unwrap()
    });
    assert_eq!(answer, name, "the one that was to end has answered");
}

#[test]
fn probes_pass_where_everybody_is_denied() {
    namespace("denied", &json!({ "config.linkerd.io/default-inbound-policy": "deny" }));
    let probe = json!({ "httpGet": { "path": "/ready", "port": 8080 }, "periodSeconds": 1 });
    let pods = template("shut", json!({}), json!({ "readinessProbe": probe, "livenessProbe": probe }));
    cluster().apply_all(&[
        deployment("denied", "shut", pods),
        service("denied", "shut", json!({ "selector": { "app": "shut" }, "ports": [{ "port": 80, "targetPort": 8080 }] })),
    ]);
    cluster().wait_for_deployment("denied", "shut");
    clients().friend.wait_for_status("http://shut.denied", "403");
    let restarts =
        |pod: &Pod| pod.status.as_ref().unwrap().container_statuses.iter().flatten().map(|each| each.restart_count).sum::<i32>();
    assert_eq!(cluster().pods("denied", "shut").iter().map(restarts).sum::<i32>(), 0);
}

#[test]
fn pods_of_a_stateful_set_are_found_by_their_names() {
    namespace("named", &json!({}));
    let selector = json!({ "app": "db" });
    cluster().apply_all(&[
        service("named", "db", json!({ "clusterIP": "None", "selector": selector, "ports": [{ "name": "http", "port": 8080 }] })),
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db", "namespace": "named" },
            "spec": {
                "serviceName": "db", "replicas": 2, "selector": { "matchLabels": selector },
                "template": template("db", json!({}), json!({})),
            },
        }),
    ]);
    let api: Api<StatefulSet> = cluster().api("named");
    let is_rolled_out = || {
        let set = cluster().ask(api.get("db")).ok()?;
        let status = set.status?;
        let counts = [status.ready_replicas, status.updated_replicas, status.available_replicas];
        let seen = status.observed_generation >= set.metadata.generation && status.current_revision == status.update_revision;
        (seen && counts.iter().all(|count| *count == Some(2))).then_some(())
    };
    eventually("the stateful set", is_rolled_out);
    let answers = |n: usize| {
        let url = format!("http://db-{n}.db.named.svc.cluster.local:8080");
        // A name that was just made is known a moment later.
        eventually(&format!("an answer of db-{n}"), || Some(get(&url)).filter(|answer| *answer == format!("db-{n}")));
    };
    [0, 1].into_iter().for_each(answers);
    let all = get("http://db.named:8080");
    assert!(all == "db-0" || all == "db-1", "{all}");
    for n in [0, 1] {
        let metrics = cluster().metrics("named", &format!("po/db-{n}"));
        let inbound = [("direction", "inbound"), ("target_port", "8080"), ("tls", "true")];
        assert!(metrics.sum("request_total", &inbound) > 0.0, "{}", metrics.family("request_total"));
    }
    // All of them anew, one after the other, under the same names.
    let restart = json!({ "spec": { "template": { "metadata": { "annotations": { "restarted": "once" } } } } });
    cluster().ask(api.patch("db", &PatchParams::default(), &Patch::Merge(restart))).unwrap();
    eventually("its rollout", is_rolled_out);
    [0, 1].into_iter().for_each(answers);
}

#[test]
fn services_of_every_kind_lead_to_their_pods() {
    namespace("services", &json!({}));
    let selector = json!({ "app": "server" });
    let to = |port: Value| json!({ "selector": selector, "ports": [{ "name": "http", "port": 80, "targetPort": port }] });
    let mut local = to(json!("odd"));
    local["internalTrafficPolicy"] = "Local".into();
    let mut two = to(json!("odd"));
    two["ports"] = json!([{ "name": "a", "port": 81, "targetPort": "odd" }, { "name": "b", "port": 82, "targetPort": 8080 }]);
    let elsewhere = json!({ "type": "ExternalName", "externalName": "named-port.services.svc.cluster.local" });
    cluster().apply_all(&[
        deployment("services", "server", template("server", json!({}), json!({}))),
        service("services", "named-port", to(json!("odd"))),
        service("services", "local", local),
        service("services", "two", two),
        service("services", "elsewhere", elsewhere),
    ]);
    cluster().wait_for_deployment("services", "server");
    for url in ["named-port.services", "local.services", "two.services:81", "two.services:82", "elsewhere.services"] {
        let answer = eventually(url, || Some(get(&format!("http://{url}"))).filter(|answer| !answer.is_empty()));
        assert!(answer.starts_with("server-"), "{url}: {answer}");
    }
    let metrics = cluster().metrics("clients", "po/friend");
    for name in ["named-port", "local"] {
        let labels = [("authority", &*format!("{name}.services.svc.cluster.local:80")), ("tls", "true")];
        assert!(metrics.sum("request_total", &labels) > 0.0, "{name}:\n{}", metrics.family("request_total"));
    }
}

#[test]
fn meshed_and_unmeshed_pods_stand_side_by_side_in_a_service() {
    namespace("mixed", &json!({}));
    cluster().apply_all(&[
        deployment("mixed", "both-meshed", template("both-meshed", json!({}), json!({}))),
        deployment("mixed", "both-plain", template("both-plain", json!({ "linkerd.io/inject": "disabled" }), json!({}))),
        service("mixed", "both", json!({ "selector": { "part-of": "both" }, "ports": [{ "port": 80, "targetPort": 8080 }] })),
    ]);
    cluster().wait_for_deployment("mixed", "both-meshed");
    cluster().wait_for_deployment("mixed", "both-plain");
    let of = |answers: &str, kind: &str| answers.split_whitespace().filter(|answer| answer.starts_with(kind)).count();
    let script = "for i in $(seq 20); do curl -s -m 20 http://both.mixed; echo; done";
    // The second endpoint is told of a moment after the first.
    let answers = eventually("answers of both", || {
        let answers = clients().friend.run(script);
        assert_eq!(of(&answers, "both-"), 20, "{answers}");
        (of(&answers, "both-meshed") > 0 && of(&answers, "both-plain") > 0).then_some(answers)
    });
    assert!(!answers.is_empty());
    let metrics = cluster().metrics("clients", "po/friend");
    let authority = ("authority", "both.mixed.svc.cluster.local:80");
    let opened = |label: (&str, &str)| metrics.sum("tcp_open_total", &[authority, ("peer", "dst"), label]);
    assert!(opened(("tls", "true")) > 0.0, "{}", metrics.family("tcp_open_total"));
    assert!(opened(("no_tls_reason", "not_provided_by_service_discovery")) > 0.0, "{}", metrics.family("tcp_open_total"));
}

#[test]
fn an_external_workload_is_reached_by_its_service() {
    namespace("far", &json!({}));
    // A meshed server stands for a machine outside: it has an address and an identity of the mesh.
    cluster().apply_all(&[deployment("far", "machine", template("machine", json!({}), json!({})))]);
    cluster().wait_for_deployment("far", "machine");
    let (address, identity) = (cluster().address("far", "machine"), "default.far.serviceaccount.identity.linkerd.cluster.local");
    cluster().apply_all(&[
        service(
            "far",
            "vm",
            json!({ "selector": { "kind": "vm" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] }),
        ),
        json!({
            "apiVersion": "workload.linkerd.io/v1beta1", "kind": "ExternalWorkload",
            "metadata": { "name": "vm", "namespace": "far", "labels": { "kind": "vm" } },
            "spec": {
                "meshTLS": { "identity": identity, "serverName": identity },
                "workloadIPs": [{ "ip": address }], "ports": [{ "name": "http", "port": 8080 }],
            },
        }),
    ]);
    let now = Timestamp::now().to_string();
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": now }] } });
    let resource = kube::core::ApiResource {
        group: "workload.linkerd.io".into(),
        version: "v1beta1".into(),
        api_version: "workload.linkerd.io/v1beta1".into(),
        kind: "ExternalWorkload".into(),
        plural: "externalworkloads".into(),
    };
    cluster().patch_status("far", "vm", &resource, &ready);
    let answer = eventually("an answer of the external workload", || {
        Some(get("http://vm.far")).filter(|answer| answer.starts_with("machine-"))
    });
    assert!(!answer.is_empty());
    let metrics = cluster().metrics("clients", "po/friend");
    let secured = [("authority", "vm.far.svc.cluster.local:80"), ("tls", "true"), ("server_id", identity)];
    assert!(metrics.sum("tcp_open_total", &secured) > 0.0, "{}", metrics.family("tcp_open_total"));
}
