//! The rules for policies and routes (control-plane §8): a table of kinds.
//!
//! What the controllers can't read is refused, by the same code that reads it ([`homarus_kube::objects`]); beyond that, what
//! can be read and can't be meant. Routes of the Gateway API that no parent of ours has are other controllers' and are let in.

mod access;
mod annotations;
mod identity;
mod limits;
mod routes;

#[cfg(test)]
mod tests;

use homarus_kube::objects::{Meta, Object, Readable, read};
use homarus_model::facts::Kind;
use homarus_model::network::Network;
use serde::de::DeserializeOwned;

use super::Judgement;
use crate::webhook::review::Question;

const POLICY: &str = "policy.linkerd.io";
const GATEWAY: &str = "gateway.networking.k8s.io";

type Rule = fn(&Question) -> Judgement;

/// Groups and kinds, and the rule for each.
const RULES: [(&str, &str, Rule); 12] = [
    (POLICY, "AuthorizationPolicy", access::authorization_policy),
    (POLICY, "MeshTLSAuthentication", access::mesh_tls),
    (POLICY, "NetworkAuthentication", access::network),
    (POLICY, "Server", access::server),
    (POLICY, "ServerAuthorization", access::server_authorization),
    (POLICY, "EgressNetwork", limits::egress_network),
    (POLICY, "HTTPLocalRateLimitPolicy", limits::rate_limit),
    (POLICY, "HTTPRoute", routes::policy_http),
    (GATEWAY, "HTTPRoute", routes::gateway_http),
    (GATEWAY, "GRPCRoute", routes::grpc),
    (GATEWAY, "TLSRoute", routes::single_rule),
    (GATEWAY, "TCPRoute", routes::single_rule),
];

/// Whether an object can be stored.
pub(crate) fn judge(question: &Question) -> Judgement {
    let (group, kind) = question.kind();
    let matches = |rule: &&(&str, &str, Rule)| rule.0.eq_ignore_ascii_case(group) && rule.1.eq_ignore_ascii_case(kind);
    let Some((group, _, rule)) = RULES.iter().find(matches) else {
        return Err(format!("{kind} of group {group:?} is not judged here: this is the webhook of policies and routes"));
    };
    if *group != GATEWAY && !question.object["spec"].is_object() {
        return Err("spec: it is missing; write it as the schema says (kubectl explain)".to_owned());
    }
    rule(question)
}

/// What the controllers make of an object; what they would replace by something safe is refused as well.
fn readable(kind: Kind, question: &Question) -> Result<Readable, String> {
    let mut meta: Meta =
        serde_json::from_value(question.object["metadata"].clone()).map_err(|error| format!("metadata: {error}"))?;
    if meta.namespace.is_empty() {
        meta.namespace = question.namespace.as_str().into();
    }
    let readable = read(kind, Object { meta: &meta, body: &question.object }).map_err(|defect| defect.to_string())?;
    match readable.defects.first() {
        Some(defect) => Err(defect.to_string()),
        None => Ok(readable),
    }
}

/// The spec, in the part that a rule looks at.
fn spec<T: DeserializeOwned>(question: &Question) -> Result<T, String> {
    serde_path_to_error::deserialize(&question.object["spec"])
        .map_err(|error| format!("spec.{}: {}; write it as the schema says (kubectl explain)", error.path(), error.inner()))
}

/// Exceptions have to leave something of the network, and be a part of it.
fn exceptions_fit(networks: &[Network]) -> Result<(), String> {
    for Network { net, except } in networks {
        for exception in except {
            if exception.contains(net) {
                return Err(format!("cidr {net} is completely negated by its exception {exception}; name a smaller exception"));
            }
            if !net.contains(exception) {
                return Err(format!("exception {exception} is not in cidr {net}; name a part of it, or remove the exception"));
            }
        }
    }
    Ok(())
}
