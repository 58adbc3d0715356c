//! What containers find: volumes, variables, tokens, files.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::cluster::{Cluster, PATIENCE, address, shell};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_and_variables_hold_what_was_asked_for() {
    let cluster = Cluster::start().await;
    cluster.config_map("settings", json!({"colour": "red", "size": "big"})).await;
    cluster.secret("keys", json!({"pin": "1234"})).await;
    let script = "cat /settings/c; cat /settings/sub/s; cat /keys/pin; stat -Lc %a /keys/pin; cat /all/ns; cat /all/pin; \
        test -s /all/token && cut -d. -f2 /all/token | base64 -d 2>/dev/null; echo; stat -fc %T /mem; touch /scratch/x && echo writes; \
        touch /settings/y 2>&1; cat /one-file; echo $HOSTNAME $IP $NODE $COLOUR; cat /info/labels; ls -a /settings";
    cluster
        .run_labelled(
            "contents",
            json!({"app": "web"}),
            json!({
                "restartPolicy": "Never", "serviceAccountName": "default",
                "volumes": [
                    {"name": "settings", "configMap": {"name": "settings", "items": [
                        {"key": "colour", "path": "c"}, {"key": "size", "path": "sub/s"}]}},
                    {"name": "whole", "configMap": {"name": "settings"}},
                    {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
                    {"name": "mem", "emptyDir": {"medium": "Memory"}},
                    {"name": "scratch", "emptyDir": {}},
                    {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                    {"name": "all", "projected": {"sources": [
                        {"serviceAccountToken": {"path": "token", "audience": "identity.l5d.io", "expirationSeconds": 3600}},
                        {"secret": {"name": "keys"}},
                        {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
                ],
                "containers": [{"name": "c", "command": shell(script),
                    "env": [
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}}],
                    "volumeMounts": [
                        {"name": "settings", "mountPath": "/settings"}, {"name": "keys", "mountPath": "/keys"},
                        {"name": "whole", "mountPath": "/one-file", "subPath": "size"},
                        {"name": "mem", "mountPath": "/mem"}, {"name": "scratch", "mountPath": "/scratch"},
                        {"name": "info", "mountPath": "/info"}, {"name": "all", "mountPath": "/all"}]}],
            }),
        )
        .await;
    let pod = cluster.until_phase("contents", "Succeeded").await;
    let text = cluster.log("contents", "c").await;
    let namespace = pod.metadata.namespace.clone().unwrap();
    let line = format!("contents {} {} red", address(&pod), cluster.name);
    for wanted in [
        "redbig1234400\n",
        &format!("{namespace}1234"),
        "\"aud\":[\"identity.l5d.io\"]",
        "tmpfs\nwrites\n",
        "Read-only file system",
        &format!("big{line}"),
        "app=\"web\"",
        "..data",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_config_map_reaches_the_pod() {
    let cluster = Cluster::start().await;
    cluster.config_map("live", json!({"a": "old"})).await;
    cluster
        .run(
            "reader",
            json!({
                "volumes": [{"name": "v", "configMap": {"name": "live"}}],
                "containers": [{"name": "c", "command": shell("while :; do cat /v/*; echo; sleep 0.1; done"),
                                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            }),
        )
        .await;
    cluster.until_ready("reader").await;
    cluster.until_logged("reader", "c", "old").await;
    cluster.config_map("live", json!({"b": "new"})).await;
    let text = cluster.until_logged("reader", "c", "new").await;
    assert!(!text.contains("oldnew"), "old and new were seen at once: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_places_of_its_own_and_not_the_nodes() {
    let state = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(state.path().join("private"), "key").unwrap();
    let place = state.path().to_owned();
    let cluster = Cluster::start_with(|config| config.hidden.push(place)).await;
    let marker = std::env::temp_dir().join(format!("homarus-marker-{}", std::process::id()));
    std::fs::write(&marker, "").unwrap();
    let script = format!(
        "ls -A {} | wc -l; test -e {} || echo own-tmp; ls -A /run; for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
         test -e /dev/pts/ptmx && df /dev/shm | tail -1; ls /proc | grep -c '^[0-9]'; cat /etc/hosts /etc/resolv.conf; hostname; mount | grep -c ' on /machine'; true",
        state.path().display(),
        marker.display(),
    );
    cluster
        .run(
            "own",
            json!({
                "restartPolicy": "Never", "hostname": "given", "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["far"]}],
                "containers": [{"name": "c", "command": shell(&script)}],
            }),
        )
        .await;
    let pod = cluster.until_phase("own", "Succeeded").await;
    let text = cluster.log("own", "c").await;
    std::fs::remove_file(&marker).unwrap();
    assert!(text.starts_with("0\nown-tmp\n"), "{text}");
    for wanted in [&format!("{}\tgiven", address(&pod)), "192.0.2.1\tfar", "options ndots:5", "\ngiven\n0\n", "/dev/shm"] {
        assert!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    assert!(!text.contains("no "), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_a_folder_that_outlives_pods_and_goes_with_the_claim() {
    let cluster = Cluster::start().await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), "default");
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    let pod = |script: &str| {
        json!({
            "restartPolicy": "Never", "securityContext": {"fsGroup": 3000},
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [{"name": "c", "command": shell(script), "securityContext": {"runAsUser": 3001},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        })
    };
    cluster.run("first", pod("echo kept > /data/file")).await;
    // Nobody has bound it yet: the pod waits, and says for what.
    let begun = std::time::Instant::now();
    while !cluster.events("first").await.iter().any(|event| event.contains("not bound yet")) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", cluster.events("first").await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let bound = json!({"status": {"phase": "Bound"}});
    claims.patch_status("data", &PatchParams::default(), &Patch::Merge(bound)).await.unwrap();
    cluster.until_phase("first", "Succeeded").await;
    cluster.run("second", pod("cat /data/file; echo more >> /data/file")).await;
    cluster.until_phase("second", "Succeeded").await;
    assert_eq!(cluster.log("second", "c").await, "kept\n");
    let folder = cluster.state().join("claims");
    let folders = || std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(folders(), 1);
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    let begun = std::time::Instant::now();
    while folders() > 0 {
        assert!(begun.elapsed() < PATIENCE, "the folder stays");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
