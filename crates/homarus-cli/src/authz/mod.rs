//! `authz`: which policies hold for the ports of workloads. Only the Kubernetes API is asked; what proxies make of it is told by
//! `diagnostics policy`.

mod grants;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};

use crate::cluster::Cluster;
use crate::command_line::Authz as Args;
use crate::failure::{Exit, Failure, Outcome};
use crate::resources::{Kind, Target};
use crate::table::Table;
use crate::terminal;
use crate::workloads::Workloads;

use grants::{Policies, Route};

/// The group of all policies.
const GROUP: &str = "policy.linkerd.io";
/// What policies may be about besides Servers: group, version, kind.
const ROUTES: [(&str, &str, &str); 3] = [
    (GROUP, "v1beta3", "HTTPRoute"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
    ("gateway.networking.k8s.io", "v1", "GRPCRoute"),
];
/// The narrowest that columns may be, so that short tables look like long ones.
const LEAST: [usize; 4] = [6, 6, 21, 21];

/// Looks policies up and prints them.
pub async fn run(cluster: &Cluster, args: &Args) -> Outcome {
    let target = target(&args.resources)?;
    let namespace = cluster.namespace(args.namespace.as_deref());
    let members = Workloads::list(&cluster.client, Some(&namespace), None).await?;
    let meant = members.0.into_iter().filter(|member| member.is_part_of(target.kind, target.name.as_deref()));
    let pods: Vec<Pod> = meant.map(|member| member.pod).collect();
    if pods.is_empty() {
        return Err(Failure::new(format!("no pods of {target} in namespace {namespace:?}"))
            .remedy("Are name and namespace right? Choose the namespace with -n."));
    }
    let mut routes = Vec::new();
    for (group, version, kind) in ROUTES {
        // The Gateway API's may be missing, and are no fault then.
        let found = known(&cluster.client, &namespace, &GroupVersionKind::gvk(group, version, kind)).await?;
        routes.extend(found.unwrap_or_default().into_iter().map(|object| Route { group, kind, object }));
    }
    let policies = Policies {
        servers: list(&cluster.client, &namespace, "v1beta3", "Server").await?,
        server_authorizations: list(&cluster.client, &namespace, "v1beta1", "ServerAuthorization").await?,
        authorization_policies: list(&cluster.client, &namespace, "v1alpha1", "AuthorizationPolicy").await?,
        routes,
    };
    let (grants, dangling) = policies.for_pods(&namespace, &pods);
    for line in dangling {
        eprintln!("{} {line}", terminal::warning());
    }
    let mut table = Table::of_text(&["ROUTE", "SERVER", "AUTHORIZATION_POLICY", "SERVER_AUTHORIZATION"]);
    for grant in grants {
        table.row(vec![grant.route, grant.server, grant.policy, grant.server_authorization]);
    }
    terminal::print(&table.render_padded(&LEAST))?;
    Ok(Exit::Ok)
}

/// `TYPE`, `TYPE/NAME` or `TYPE NAME`, of something that has pods.
fn target(words: &[String]) -> Result<Target, Failure> {
    let targets = Target::read_all(words)?;
    let [target] = targets.as_slice() else {
        return Err(Failure::usage("only one resource can be looked at").remedy("Write TYPE, TYPE/NAME or TYPE NAME."));
    };
    match target.kind {
        Kind::Service | Kind::Namespace => {
            Err(Failure::usage(format!("{} has no policies of its own", target.kind.name())).remedy("Try `deploy` or `pod`."))
        }
        _ => Ok(target.clone()),
    }
}

/// All objects of a kind of policy.
async fn list(client: &Client, namespace: &str, version: &str, kind: &str) -> Result<Vec<DynamicObject>, Failure> {
    known(client, namespace, &GroupVersionKind::gvk(GROUP, version, kind)).await?.ok_or_else(|| {
        Failure::new(format!("the cluster has no {kind}s ({GROUP}/{version})"))
            .remedy("Is the mesh installed? `homarus check --crds` tells, `homarus install --crds` helps.")
    })
}

/// All objects of a kind; none where the cluster doesn't know it.
async fn known(client: &Client, namespace: &str, kind: &GroupVersionKind) -> Result<Option<Vec<DynamicObject>>, Failure> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(kind));
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(Some(list.items)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_can_be_asked() {
        let read = |line: &str| {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            target(&words).map(|target| target.to_string()).map_err(|failure| failure.to_string())
        };
        assert_eq!(read("deploy").unwrap(), "deployment");
        assert_eq!(read("po/web-0").unwrap(), "pod/web-0");
        assert_eq!(read("sts web").unwrap(), "statefulset/web");
        assert!(read("svc/web").unwrap_err().starts_with("service has no policies"));
        assert!(read("deploy a b").unwrap_err().starts_with("only one resource"));
        assert!(read("").unwrap_err().starts_with("No resource arguments provided"));
    }
}
