//! Pods among each other: addresses, Services, names.

use homarus_local::api::node::{NodeBackend as _, PodRef};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::cluster::{Cluster, address, shell, web_server};

fn server(readiness: bool) -> serde_json::Value {
    let mut container = json!({"name": "c", "command": web_server()});
    if readiness {
        container["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    }
    json!({"hostname": "given", "containers": [container]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_lead_to_their_pods_by_address_and_by_name() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        let mut spec = server(true);
        spec["hostname"] = name.into();
        cluster.run(name, spec).await;
    }
    let (a, b) = (cluster.until_ready("a").await, cluster.until_ready("b").await);
    let addresses = [address(&a), address(&b)];
    let port = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let service = cluster.service("web", json!({"ports": port})).await;
    cluster.service("all", json!({"clusterIP": "None", "ports": port})).await;
    cluster.service("empty", json!({"ports": port})).await;
    for service in ["web", "all"] {
        cluster.endpoints(service, 8080, &addresses).await;
    }
    let script = "until curl -sf -m 2 http://web/; do sleep 0.1; done; \
        for i in $(seq 20); do curl -s -m 2 http://web/; done | cut -d' ' -f1 | sort -u | tr '\\n' ' '; \
        getent ahostsv4 all | cut -d' ' -f1 | sort -u | wc -l; \
        curl -s -m 5 -o /dev/null http://empty/; echo refused=$?; \
        curl -s -m 5 -o /dev/null http://web:81/; echo port=$?; \
        getent hosts nobody.invalid; echo nobody=$?";
    cluster.run("client", json!({"restartPolicy": "Never", "containers": [{"name": "c", "command": shell(script)}]})).await;
    cluster.until_phase("client", "Succeeded").await;
    let text = cluster.log("client", "c").await;
    for wanted in ["a b 2\n", "refused=7\n", "port=7\n", "nobody=2\n"] {
        assert!(text.contains(wanted), "{wanted:?} is not in {text}");
    }

    // From the machine too.
    let ip = service.spec.unwrap().cluster_ip.unwrap();
    let mut stream = tokio::net::TcpStream::connect((ip.as_str(), 80)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains(&cluster.network.machine().to_string()), "{reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_reaches_itself_through_its_service() {
    let cluster = Cluster::start().await;
    let mut spec = server(true);
    let script = "until curl -sf -m 2 http://web/; do sleep 0.1; done; sleep 600";
    let asks = json!({"name": "asks", "command": shell(script)});
    spec["containers"].as_array_mut().unwrap().push(asks);
    cluster.run("self", spec).await;
    let pod = cluster.until_ready("self").await;
    cluster.service("web", json!({"ports": [{"name": "http", "port": 80}]})).await;
    cluster.endpoints("web", 8080, &[address(&pod)]).await;
    let text = cluster.until_logged("self", "asks", "given").await;
    assert!(text.contains(&cluster.network.gateway().to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_forwarded_to_the_loopback_of_the_pod() {
    let cluster = Cluster::start().await;
    cluster.run("web", server(true)).await;
    let pod = cluster.until_ready("web").await;
    let reference =
        PodRef { namespace: pod.metadata.namespace.clone().unwrap(), name: "web".into(), uid: pod.metadata.uid.clone().unwrap() };
    let mut stream = cluster.node.backend().connect(reference.clone(), 8080).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains("given 127.0.0.1"), "{reply}");
    assert!(cluster.node.backend().connect(reference, 9).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_registers_and_pods_learn_where_they_are() {
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::Node;
    let cluster = Cluster::start().await;
    cluster.run("where", json!({"containers": [{"name": "c", "command": shell("exec sleep 600")}]})).await;
    let pod = cluster.until_ready("where").await;
    let status = pod.status.unwrap();
    assert_eq!(status.host_ip, Some(cluster.network.gateway().to_string()));
    assert!(cluster.network.config().pods.contains(&status.pod_ip.unwrap().parse::<std::net::Ipv4Addr>().unwrap()));
    let nodes: kube::Api<Node> = kube::Api::all(cluster.client.clone());
    let node = nodes.get(&cluster.name).await.unwrap();
    let conditions = node.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let leases: kube::Api<Lease> = kube::Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let begun = std::time::Instant::now();
    while leases.get_opt(&cluster.name).await.unwrap().is_none() {
        assert!(begun.elapsed() < super::cluster::PATIENCE, "no heartbeat");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_on_the_machines_network_has_the_machines_address() {
    let cluster = Cluster::start().await;
    let spec = json!({"hostNetwork": true, "restartPolicy": "Never",
        "containers": [{"name": "c", "command": shell("ls /sys/class/net")}]});
    cluster.run("outside", spec).await;
    let pod = cluster.until_phase("outside", "Succeeded").await;
    assert_eq!(address(&pod), cluster.network.machine().to_string());
    let text = cluster.log("outside", "c").await;
    assert!(text.lines().any(|line| line == cluster.name), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_come_and_go() {
    const PODS: usize = 60;
    let cluster = Cluster::start().await;
    let begun = std::time::Instant::now();
    let names: Vec<_> = (0..PODS).map(|n| format!("many-{n}")).collect();
    for name in &names {
        cluster.run(name, json!({"containers": [{"name": "c", "command": shell("exec sleep 600")}]})).await;
    }
    let mut addresses = std::collections::HashSet::new();
    for name in &names {
        addresses.insert(address(&cluster.until_ready(name).await));
    }
    println!("{PODS} pods ready in {:?}", begun.elapsed());
    assert_eq!(addresses.len(), PODS, "each has an address of its own");
    let begun = std::time::Instant::now();
    for name in &names {
        cluster.pods().delete(name, &Default::default()).await.unwrap();
    }
    for name in &names {
        while cluster.pods().get_opt(name).await.unwrap().is_some() {
            assert!(begun.elapsed() < super::cluster::PATIENCE, "{name} does not go");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    println!("and gone in {:?}", begun.elapsed());
}
