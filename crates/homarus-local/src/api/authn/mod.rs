//! Who asks: a client certificate of our authority, a service-account token, or nobody (`system:anonymous`).
//!
//! A credential that doesn't verify is refused; only a request without any is anonymous.

pub mod authority;
pub mod token;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::refusal::{Answer, Refusal};
use super::store::Name;
use super::store::shared::Shared;
use token::{Claims, Tokens};

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// `system:serviceaccount:emojivoto:web`
    pub name: String,
    /// The service account's uid.
    pub uid: String,
    /// `system:authenticated`, ...
    pub groups: Vec<String>,
    /// What the credential says besides, such as the pod of a token.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The owner of the machine, as in the kubeconfig.
    pub fn admin() -> User {
        User::certified("kubernetes-admin", vec![MASTERS.into()])
    }

    /// Whom a verified certificate names.
    pub fn certified(name: &str, mut groups: Vec<String>) -> User {
        groups.push("system:authenticated".into());
        User { name: name.into(), groups, ..User::default() }
    }

    /// Someone without a credential.
    pub fn anonymous() -> User {
        User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..User::default() }
    }

    /// As `TokenReview`, `AdmissionReview` and `SelfSubjectReview` show it.
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }

    /// Namespace and name, if it is a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}

/// Reads a bearer token out of an `Authorization` header; other schemes count as none.
pub fn bearer(header: Option<&http::HeaderValue>) -> Option<&str> {
    let text = header?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

/// Who a token speaks for at this time, if it is for one of these audiences; empty means the API's own.
pub fn by_token(
    store: &Shared,
    tokens: &Tokens,
    token: &str,
    audiences: &[String],
    now: i64,
) -> Result<(User, Vec<String>), String> {
    let claims = tokens.verify(token, now).map_err(|e| e.to_string())?;
    let own = [tokens.issuer().to_owned()];
    let wanted = if audiences.is_empty() { &own[..] } else { audiences };
    let common: Vec<String> = wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
    if common.is_empty() {
        let (has, wants) = (claims.aud.join(" "), wanted.join(" "));
        return Err(format!("token audiences [\"{has}\"] is invalid for the target audiences [\"{wants}\"]"));
    }
    still_there(store, &claims)?;
    Ok((of_claims(&claims), common))
}

/// A token dies with its service account and with the pod or secret it is bound to.
fn still_there(store: &Shared, claims: &Claims) -> Result<(), String> {
    let bound = &claims.bound;
    let check = |bucket: &str, what: &str, name: &str, uid: &str| {
        let found = store.find(bucket, &Name::new(&bound.namespace, name));
        match found {
            Some(object) if object.value["metadata"]["uid"] == uid => Ok(()),
            _ => Err(format!("{what} {}/{name} is gone or another than the token was made for", bound.namespace)),
        }
    };
    check("/serviceaccounts", "service account", &bound.serviceaccount.name, &bound.serviceaccount.uid)?;
    if let Some(pod) = &bound.pod {
        check("/pods", "pod", &pod.name, &pod.uid)?;
    }
    if let Some(secret) = &bound.secret {
        check("/secrets", "secret", &secret.name, &secret.uid)?;
    }
    Ok(())
}

fn of_claims(claims: &Claims) -> User {
    let bound = &claims.bound;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    add("credential-id", &format!("JTI={}", claims.jti));
    if let Some(pod) = &bound.pod {
        add("pod-name", &pod.name);
        add("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        add("node-name", &node.name);
        add("node-uid", &node.uid);
    }
    User {
        name: claims.sub.clone(),
        uid: bound.serviceaccount.uid.clone(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{}", bound.namespace),
            "system:authenticated".into(),
        ],
        extra,
    }
}

/// Who sends a request: the certificate counts before the token.
pub fn requester(store: &Shared, tokens: &Tokens, certified: Option<&User>, headers: &http::HeaderMap, now: i64) -> Answer<User> {
    if let Some(user) = certified {
        return Ok(user.clone());
    }
    let header = headers.get(http::header::AUTHORIZATION);
    match bearer(header) {
        Some(token) => by_token(store, tokens, token, &[], now).map(|(user, _)| user).map_err(|why| {
            tracing::debug!(why, "refused a token");
            Refusal::unauthorized()
        }),
        None => Ok(User::anonymous()),
    }
}
