//! Who may connect: Servers and what grants access to them.

use homarus_model::facts::{Fact, Kind};
use serde::Deserialize;
use serde_json::Value;

use super::{exceptions_fit, identity, readable, spec};
use crate::admit::Judgement;
use crate::webhook::review::Question;

pub(super) fn server(question: &Question) -> Judgement {
    readable(Kind::Server, question).map(|_| Vec::new())
}

pub(super) fn authorization_policy(question: &Question) -> Judgement {
    if !question.object["spec"]["requiredAuthenticationRefs"].is_array() {
        return Err("spec.requiredAuthenticationRefs: it is missing; write [] if nothing is to be proven".to_owned());
    }
    readable(Kind::AuthorizationPolicy, question).map(|_| Vec::new())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeshTls {
    identities: Option<Vec<String>>,
    identity_refs: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    kind: String,
    namespace: Option<String>,
}

pub(super) fn mesh_tls(question: &Question) -> Judgement {
    let MeshTls { identities, identity_refs } = spec(question)?;
    if identities.is_some() && identity_refs.is_some() {
        return Err("spec: identities and identityRefs can't both be given; make a MeshTLSAuthentication of each".to_owned());
    }
    for (i, text) in identities.iter().flatten().enumerate() {
        identity::pattern(text).map_err(|error| format!("spec.identities[{i}]: {error}"))?;
    }
    for (i, reference) in identity_refs.iter().flatten().enumerate() {
        let named = reference.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty());
        if reference.kind.eq_ignore_ascii_case("Namespace") && named {
            return Err(format!("spec.identityRefs[{i}].namespace: a Namespace is in no namespace; remove it"));
        }
    }
    readable(Kind::MeshTlsAuthentication, question).map(|_| Vec::new())
}

pub(super) fn network(question: &Question) -> Judgement {
    match readable(Kind::NetworkAuthentication, question)?.fact {
        Fact::NetworkAuthentication(fact) => exceptions_fit(&fact.networks).map(|()| Vec::new()),
        _ => Ok(Vec::new()),
    }
}

/// What a ServerAuthorization asks of clients, as far as parts of it exclude each other.
#[derive(Deserialize)]
struct Grant {
    client: Client,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    unauthenticated: Option<bool>,
    #[serde(rename = "meshTLS")]
    mesh_tls: Option<ClientTls>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientTls {
    #[serde(rename = "unauthenticatedTLS")]
    unauthenticated: Option<bool>,
    identities: Option<Vec<String>>,
    service_accounts: Option<Vec<Value>>,
}

impl ClientTls {
    fn names_anybody(&self) -> bool {
        let some = |list: Option<usize>| list.is_some_and(|length| length > 0);
        some(self.identities.as_ref().map(Vec::len)) || some(self.service_accounts.as_ref().map(Vec::len))
    }
}

pub(super) fn server_authorization(question: &Question) -> Judgement {
    let Grant { client } = spec(question)?;
    let everybody = client.unauthenticated == Some(true);
    if let Some(tls) = &client.mesh_tls {
        if everybody {
            return Err("spec.client: unauthenticated clients have no meshTLS; give one of both".to_owned());
        }
        if tls.unauthenticated == Some(true) && tls.names_anybody() {
            let problem = "unauthenticatedTLS lets in whoever speaks TLS, whatever identities and serviceAccounts say";
            return Err(format!("spec.client.meshTLS: {problem}; give one of them"));
        }
    }
    let names = client.mesh_tls.as_ref().is_some_and(|tls| tls.unauthenticated == Some(true) || tls.names_anybody());
    match readable(Kind::ServerAuthorization, question) {
        Ok(readable) => match readable.fact {
            Fact::ServerAuthorization(fact) => exceptions_fit(&fact.networks).map(|()| Vec::new()),
            _ => Ok(Vec::new()),
        },
        // Stored by Linkerd as well, where it has no effect either.
        Err(defect) if !everybody && !names => Ok(vec![defect]),
        Err(defect) => Err(defect),
    }
}
