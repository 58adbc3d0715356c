//! Servers and who may ask them (crds.md §1-5).

use super::{Defect, IntOrString, LabelSelector, Object, Readable, SEE_SCHEMA, body, or_default};
use homarus_model::{
    facts::{
        AuthorizationPolicy, Fact, Id, IdentityPattern, IdentitySource, MeshTlsAuthentication, NetworkAuthentication, Proof,
        RouteGroup, RouteKind, Server, ServerAuthorization, ServerProtocol, ServerSelection, Target, Workloads,
    },
    inbound::DefaultPolicy,
    network::Network,
};
use ipnet::IpNet;
use serde::Deserialize;
use std::{net::IpAddr, sync::Arc};

#[derive(Deserialize)]
struct Spec<T> {
    spec: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServerSpec {
    pod_selector: Option<LabelSelector>,
    external_workload_selector: Option<LabelSelector>,
    port: IntOrString,
    proxy_protocol: Option<String>,
    access_policy: Option<String>,
}

pub(super) fn server(object: Object<'_>) -> Result<Readable, Defect> {
    let Spec { spec } = body::<Spec<ServerSpec>>(object)?;
    let workloads = match (spec.pod_selector, spec.external_workload_selector) {
        (Some(selector), None) => Workloads::Pods(selector.read("spec.podSelector")?),
        (None, Some(selector)) => Workloads::External(selector.read("spec.externalWorkloadSelector")?),
        _ => {
            let problem = "exactly one of podSelector and externalWorkloadSelector is required";
            return Err(Defect::new("spec", problem, "give the one that is meant"));
        }
    };
    let port = spec.port.port().ok_or_else(|| Defect::new("spec.port", "no port", "give a number from 1 to 65535 or a name"))?;
    let mut defects = Vec::new();
    let protocol = spec.proxy_protocol.as_deref().unwrap_or("unknown");
    let protocol = server_protocol(protocol).unwrap_or_else(|| {
        let problem = format!("unknown protocol {protocol:?}");
        let remedy = "use unknown, HTTP/1, HTTP/2, gRPC, opaque or TLS; until then the protocol is detected";
        defects.push(Defect::new("spec.proxyProtocol", problem, remedy));
        ServerProtocol::Unknown
    });
    let access = spec.access_policy.as_deref().map_or(Ok(DefaultPolicy::Deny), str::parse).unwrap_or_else(|error| {
        defects.push(Defect::new("spec.accessPolicy", error, "use one of these; until then it denies"));
        DefaultPolicy::Deny
    });
    let meta = object.meta;
    let fact = Server { id: meta.id(), age: meta.age(), labels: meta.labels.clone(), workloads, port, protocol, access };
    Ok(Readable { fact: Fact::Server(fact), defects })
}

fn server_protocol(name: &str) -> Option<ServerProtocol> {
    Some(match name {
        "unknown" => ServerProtocol::Unknown,
        "HTTP/1" => ServerProtocol::Http1,
        "HTTP/2" => ServerProtocol::Http2,
        "gRPC" => ServerProtocol::Grpc,
        "opaque" => ServerProtocol::Opaque,
        "TLS" => ServerProtocol::Tls,
        _ => return None,
    })
}

#[derive(Deserialize)]
struct NetworkSpec {
    cidr: String,
    #[serde(default, deserialize_with = "or_default")]
    except: Vec<String>,
}

/// A network, or a single address.
fn cidr(text: &str, field: &str) -> Result<IpNet, Defect> {
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map_err(|_| Defect::new(field, format!("{text:?} is no network"), "write 10.0.0.0/8 or a single address"))
}

fn networks(from: Vec<NetworkSpec>, field: &str) -> Result<Vec<Network>, Defect> {
    let network = |n: NetworkSpec| {
        let except = n.except.iter().map(|e| cidr(e, field)).collect::<Result<_, _>>()?;
        Ok(Network { net: cidr(&n.cidr, field)?, except })
    };
    from.into_iter().map(network).collect()
}

#[derive(Deserialize)]
struct GrantSpec {
    server: GrantServer,
    client: Client,
}

#[derive(Deserialize)]
struct GrantServer {
    name: Option<Arc<str>>,
    selector: Option<LabelSelector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    #[serde(default, deserialize_with = "or_default")]
    networks: Vec<NetworkSpec>,
    #[serde(default)]
    unauthenticated: bool,
    #[serde(rename = "meshTLS")]
    mesh_tls: Option<MeshTls>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeshTls {
    #[serde(rename = "unauthenticatedTLS", default)]
    unauthenticated: bool,
    #[serde(default, deserialize_with = "or_default")]
    identities: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    service_accounts: Vec<Account>,
}

#[derive(Deserialize)]
struct Account {
    name: Arc<str>,
    namespace: Option<Arc<str>>,
}

pub(super) fn server_authorization(object: Object<'_>) -> Result<Readable, Defect> {
    let meta = object.meta;
    let Spec { spec } = body::<Spec<GrantSpec>>(object)?;
    let servers = match (spec.server.name, spec.server.selector) {
        (Some(name), None) => ServerSelection::Name(name),
        (None, Some(selector)) => ServerSelection::Selector(selector.read("spec.server.selector")?),
        _ => return Err(Defect::new("spec.server", "exactly one of name and selector is required", "give the one that is meant")),
    };
    let proof = match (spec.client.unauthenticated, spec.client.mesh_tls) {
        (true, _) => Proof::Unauthenticated,
        (false, Some(tls)) if tls.unauthenticated => Proof::Tls,
        (false, Some(tls)) => Proof::Identities(identities(tls, &meta.namespace)?),
        (false, None) => {
            let problem = "it names no clients";
            return Err(Defect::new("spec.client", problem, "set meshTLS or unauthenticated; until then it grants nothing"));
        }
    };
    let networks = networks(spec.client.networks, "spec.client.networks")?;
    Ok(Fact::ServerAuthorization(ServerAuthorization { id: meta.id(), servers, networks, proof }).into())
}

fn identities(tls: MeshTls, namespace: &Arc<str>) -> Result<Vec<IdentityPattern>, Defect> {
    let field = "spec.client.meshTLS";
    let mut patterns = tls.identities.iter().map(|id| pattern(id, field)).collect::<Result<Vec<_>, _>>()?;
    patterns.extend(tls.service_accounts.into_iter().map(|account| {
        let namespace = account.namespace.unwrap_or_else(|| namespace.clone());
        IdentityPattern::ServiceAccount(Id { namespace, name: account.name })
    }));
    if patterns.is_empty() {
        return Err(Defect::new(field, "it names no identity", "give identities, serviceAccounts or unauthenticatedTLS"));
    }
    Ok(patterns)
}

/// `*`, `*.suffix`, or an identity.
fn pattern(text: &str, field: &str) -> Result<IdentityPattern, Defect> {
    if text == "*" {
        return Ok(IdentityPattern::Any);
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        return Ok(IdentityPattern::Suffix(suffix.into()));
    }
    text.parse().map(IdentityPattern::Exact).map_err(|error| Defect::new(field, format!("{text:?}: {error}"), SEE_SCHEMA))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolicySpec {
    target_ref: Ref,
    #[serde(default, deserialize_with = "or_default")]
    required_authentication_refs: Vec<Ref>,
}

#[derive(Deserialize)]
struct Ref {
    #[serde(default, deserialize_with = "or_default")]
    group: String,
    kind: String,
    name: Arc<str>,
    namespace: Option<Arc<str>>,
}

impl Ref {
    fn is(&self, group: &str, kind: &str) -> bool {
        let own = if self.group == "core" { "" } else { &*self.group };
        own.eq_ignore_ascii_case(group) && self.kind.eq_ignore_ascii_case(kind)
    }

    fn id(self, default: &Arc<str>) -> Id {
        Id { namespace: self.namespace.filter(|ns| !ns.is_empty()).unwrap_or_else(|| default.clone()), name: self.name }
    }
}

const POLICY: &str = "policy.linkerd.io";

pub(super) fn authorization_policy(object: Object<'_>) -> Result<Readable, Defect> {
    let meta = object.meta;
    let Spec { spec } = body::<Spec<PolicySpec>>(object)?;
    let target = target(spec.target_ref, &meta.namespace)?;
    let (mut clients, mut networks) = (None, None);
    for reference in spec.required_authentication_refs {
        let field = "spec.requiredAuthenticationRefs";
        let twice = Defect::new(field, "more than one of a kind", "give one source of identities and one of networks at most");
        if reference.is(POLICY, "NetworkAuthentication") {
            if networks.replace(reference.id(&meta.namespace)).is_some() {
                return Err(twice);
            }
            continue;
        }
        let source = if reference.is(POLICY, "MeshTLSAuthentication") {
            IdentitySource::MeshTls(reference.id(&meta.namespace))
        } else if reference.is("", "ServiceAccount") {
            IdentitySource::ServiceAccount(reference.id(&meta.namespace))
        } else {
            let problem = format!("unknown kind {} of group {:?}", reference.kind, reference.group);
            return Err(Defect::new(field, problem, "use MeshTLSAuthentication, NetworkAuthentication or ServiceAccount"));
        };
        if clients.replace(source).is_some() {
            return Err(twice);
        }
    }
    Ok(Fact::AuthorizationPolicy(AuthorizationPolicy { id: meta.id(), target, clients, networks }).into())
}

fn target(reference: Ref, namespace: &str) -> Result<Target, Defect> {
    if reference.is(POLICY, "Server") {
        return Ok(Target::Server(reference.name));
    }
    if reference.is("", "Namespace") {
        if *reference.name != *namespace {
            return Err(Defect::new("spec.targetRef.name", "another namespace", "a policy can only be about its own namespace"));
        }
        return Ok(Target::Namespace);
    }
    let routes = [RouteKind::Http(RouteGroup::Policy), RouteKind::Http(RouteGroup::Gateway), RouteKind::Grpc];
    let kind = routes.into_iter().find(|kind| reference.is(kind.group().as_str(), kind.as_str()));
    kind.map(|kind| Target::Route(kind.group(), kind, reference.name.clone())).ok_or_else(|| {
        let problem = format!("unknown kind {} of group {:?}", reference.kind, reference.group);
        Defect::new("spec.targetRef", problem, "use Server, Namespace, HTTPRoute or GRPCRoute")
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeshTlsSpec {
    #[serde(default, deserialize_with = "or_default")]
    identities: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    identity_refs: Vec<Ref>,
}

pub(super) fn mesh_tls(object: Object<'_>) -> Result<Readable, Defect> {
    let meta = object.meta;
    let Spec { spec } = body::<Spec<MeshTlsSpec>>(object)?;
    let mut identities = spec.identities.iter().map(|id| pattern(id, "spec.identities")).collect::<Result<Vec<_>, _>>()?;
    for reference in spec.identity_refs {
        identities.push(if reference.is("", "ServiceAccount") {
            IdentityPattern::ServiceAccount(reference.id(&meta.namespace))
        } else if reference.is("", "Namespace") {
            IdentityPattern::Namespace(reference.name)
        } else {
            let problem = format!("unknown kind {} of group {:?}", reference.kind, reference.group);
            return Err(Defect::new("spec.identityRefs", problem, "use ServiceAccount or Namespace"));
        });
    }
    if identities.is_empty() {
        return Err(Defect::new("spec", "it names no identity", "give identities or identityRefs"));
    }
    Ok(Fact::MeshTlsAuthentication(MeshTlsAuthentication { id: meta.id(), identities }).into())
}

#[derive(Deserialize)]
struct NetworksSpec {
    networks: Vec<NetworkSpec>,
}

pub(super) fn network(object: Object<'_>) -> Result<Readable, Defect> {
    let Spec { spec } = body::<Spec<NetworksSpec>>(object)?;
    let networks = networks(spec.networks, "spec.networks")?;
    if networks.is_empty() {
        return Err(Defect::new("spec.networks", "it names no network", "give at least one"));
    }
    Ok(Fact::NetworkAuthentication(NetworkAuthentication { id: object.meta.id(), networks }).into())
}
