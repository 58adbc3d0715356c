//! Which policies hold for which ports of some pods. Pure: objects in, rows out.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::selectors::selects;

/// The policies of a namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    pub(super) servers: Vec<DynamicObject>,
    pub(super) server_authorizations: Vec<DynamicObject>,
    pub(super) authorization_policies: Vec<DynamicObject>,
    pub(super) routes: Vec<Route>,
}

/// A route of either group, which policies may be about. A list's objects don't say what they are.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    pub(super) object: DynamicObject,
}

/// A policy that holds for a port, or for a route to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Grant {
    /// Its name, or `*` for all traffic.
    pub(super) route: String,
    pub(super) server: String,
    pub(super) policy: String,
    pub(super) server_authorization: String,
}

impl Policies {
    /// What holds for pods, ServerAuthorizations first; and what refers to something that isn't there.
    pub(super) fn for_pods(&self, namespace: &str, pods: &[Pod]) -> (Vec<Grant>, Vec<String>) {
        let servers: Vec<_> = self.servers.iter().filter(|server| pods.iter().any(|pod| is_about(server, pod))).collect();
        let (mut grants, mut dangling) = (Vec::new(), Vec::new());
        for authorization in &self.server_authorizations {
            let granted = servers.iter().filter(|server| selects_server(authorization, server));
            grants.extend(granted.map(|server| Grant {
                route: "*".to_owned(),
                server: server.name_any(),
                server_authorization: authorization.name_any(),
                ..Grant::default()
            }));
            if let Some(missing) = authorization.data.pointer("/spec/server/name").and_then(Value::as_str)
                && !self.has_server(missing)
            {
                dangling.push(format!(
                    "ServerAuthorization {} refers to Server {missing}, which doesn't exist",
                    authorization.name_any()
                ));
            }
        }
        for policy in &self.authorization_policies {
            let row = |route: &str, server: &str| Grant {
                route: route.to_owned(),
                server: server.to_owned(),
                policy: policy.name_any(),
                ..Grant::default()
            };
            let text = |field: &str| policy.data.pointer(&format!("/spec/targetRef/{field}")).and_then(Value::as_str);
            let name = text("name").unwrap_or_default();
            match text("kind").unwrap_or_default() {
                "Namespace" if name == namespace => grants.extend(servers.iter().map(|server| row("*", &server.name_any()))),
                "Server" if !self.has_server(name) => {
                    dangling.push(format!("AuthorizationPolicy {} targets Server {name}, which doesn't exist", policy.name_any()));
                }
                "Server" => grants.extend(servers.iter().filter(|server| server.name_any() == name).map(|_| row("*", name))),
                kind @ ("HTTPRoute" | "GRPCRoute") => match self.route(text("group").unwrap_or_default(), kind, name) {
                    None => dangling
                        .push(format!("AuthorizationPolicy {} targets {kind} {name}, which doesn't exist", policy.name_any())),
                    Some(route) => {
                        let parents = parents(route);
                        dangling.extend(
                            parents
                                .iter()
                                .filter(|parent| !self.has_server(parent))
                                .map(|parent| format!("{kind} {name} refers to Server {parent}, which doesn't exist")),
                        );
                        let of_route = servers.iter().filter(|server| parents.contains(&server.name_any()));
                        grants.extend(of_route.map(|server| row(name, &server.name_any())));
                    }
                },
                _ => {}
            }
        }
        (once(grants), dangling)
    }

    fn route(&self, group: &str, kind: &str, name: &str) -> Option<&DynamicObject> {
        let meant = |route: &&Route| route.group == group && route.kind == kind && route.object.name_any() == name;
        self.routes.iter().find(meant).map(|route| &route.object)
    }

    fn has_server(&self, name: &str) -> bool {
        self.servers.iter().any(|server| server.name_any() == name)
    }
}

/// Each row once, in the order in which they came.
fn once(grants: Vec<Grant>) -> Vec<Grant> {
    let mut seen = BTreeSet::new();
    grants.into_iter().filter(|grant| seen.insert(grant.clone())).collect()
}

/// Whether a Server is about a port of a pod. Ports by number hold whether containers declare them or not.
fn is_about(server: &DynamicObject, pod: &Pod) -> bool {
    let spec = &server.data["spec"];
    let Some(selector) = selector(&spec["podSelector"]) else { return false };
    if !selects(&selector, pod.labels()) {
        return false;
    }
    match &spec["port"] {
        Value::String(name) => crate::reach::named_port(pod, name).is_some(),
        port => port.is_u64(),
    }
}

/// None if there is none, or if it can't be read: then it selects nothing.
fn selector(value: &Value) -> Option<LabelSelector> {
    if value.is_null() { None } else { serde_json::from_value(value.clone()).ok() }
}

fn selects_server(authorization: &DynamicObject, server: &DynamicObject) -> bool {
    let meant = &authorization.data["spec"]["server"];
    match meant["name"].as_str() {
        Some(name) => server.name_any() == name,
        None => selector(&meant["selector"]).is_some_and(|selector| selects(&selector, server.labels())),
    }
}

/// The Servers that a route is attached to.
fn parents(route: &DynamicObject) -> Vec<String> {
    let parents = route.data["spec"]["parentRefs"].as_array().into_iter().flatten();
    let servers = parents.filter(|parent| parent["kind"] == "Server");
    servers.filter_map(|parent| parent["name"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn object(name: &str, labels: Value, spec: Value) -> DynamicObject {
        let object = json!({ "apiVersion": "policy.linkerd.io/v1", "kind": "X", "metadata": { "name": name, "labels": labels }, "spec": spec });
        serde_json::from_value(object).unwrap()
    }

    fn pod(app: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "labels": { "app": app } },
            "spec": { "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": 80 }] }] },
        }))
        .unwrap()
    }

    fn server(name: &str, app: &str, port: Value) -> DynamicObject {
        object(name, json!({ "tier": "front" }), json!({ "podSelector": { "matchLabels": { "app": app } }, "port": port }))
    }

    fn policy(name: &str, kind: &str, target: &str) -> DynamicObject {
        of_group(name, "policy.linkerd.io", kind, target)
    }

    fn of_group(name: &str, group: &str, kind: &str, target: &str) -> DynamicObject {
        object(name, json!({}), json!({ "targetRef": { "group": group, "kind": kind, "name": target } }))
    }

    fn policies() -> Policies {
        let authorization = |name: &str, server: Value| object(name, json!({}), json!({ "server": server, "client": {} }));
        let selecting = json!({ "selector": { "matchLabels": { "tier": "front" } } });
        let parents = json!({ "parentRefs": [{ "kind": "Server", "name": "web-http" }, { "kind": "Service", "name": "web" }] });
        Policies {
            servers: vec![
                server("web-http", "web", json!("http")),
                server("web-grpc", "web", json!("grpc")),
                server("web-81", "web", json!(81)),
                server("other", "other", json!(80)),
            ],
            server_authorizations: vec![
                authorization("named", json!({ "name": "web-http" })),
                authorization("selected", selecting),
                authorization("lost", json!({ "name": "gone" })),
            ],
            authorization_policies: vec![
                policy("all", "Namespace", "shop"),
                policy("elsewhere", "Namespace", "other"),
                policy("one", "Server", "web-81"),
                policy("not-mine", "Server", "other"),
                policy("no-server", "Server", "gone"),
                policy("route", "HTTPRoute", "login"),
                policy("no-route", "HTTPRoute", "gone"),
            ],
            routes: vec![Route { group: "policy.linkerd.io", kind: "HTTPRoute", object: object("login", json!({}), parents) }],
        }
    }

    #[test]
    fn routes_are_known_by_group_and_kind() {
        let to = |server: &str| object("login", json!({}), json!({ "parentRefs": [{ "kind": "Server", "name": server }] }));
        let gateway = "gateway.networking.k8s.io";
        let mut policies = policies();
        policies.server_authorizations.clear();
        policies.routes.push(Route { group: gateway, kind: "HTTPRoute", object: to("web-81") });
        policies.routes.push(Route { group: gateway, kind: "GRPCRoute", object: to("web-http") });
        policies.authorization_policies = vec![
            of_group("a", gateway, "HTTPRoute", "login"),
            of_group("b", gateway, "GRPCRoute", "login"),
            of_group("c", "", "HTTPRoute", "login"),
        ];
        let (grants, dangling) = policies.for_pods("shop", &[pod("web")]);
        let rows: Vec<_> = grants.iter().map(|g| format!("{} {}", g.server, g.policy)).collect();
        assert_eq!(rows, ["web-81 a", "web-http b"]);
        assert_eq!(dangling, ["AuthorizationPolicy c targets HTTPRoute login, which doesn't exist"]);
    }

    #[test]
    fn rows_for_each_port_and_policy() {
        let (grants, dangling) = policies().for_pods("shop", &[pod("web"), pod("web")]);
        let rows: Vec<_> =
            grants.iter().map(|g| format!("{} {} {} {}", g.route, g.server, g.policy, g.server_authorization)).collect();
        assert_eq!(
            rows,
            [
                "* web-http  named",
                "* web-http  selected",
                "* web-81  selected",
                "* web-http all ",
                "* web-81 all ",
                "* web-81 one ",
                "login web-http route ",
            ]
        );
        assert_eq!(
            dangling,
            [
                "ServerAuthorization lost refers to Server gone, which doesn't exist",
                "AuthorizationPolicy no-server targets Server gone, which doesn't exist",
                "AuthorizationPolicy no-route targets HTTPRoute gone, which doesn't exist",
            ]
        );
    }

    #[test]
    fn pods_that_no_server_selects_have_no_policies() {
        assert!(policies().for_pods("shop", &[pod("else")]).0.is_empty());
        assert!(Policies::default().for_pods("shop", &[pod("web")]).0.is_empty());
    }
}
