//! Questions about who and what: TokenRequest, TokenReview, access reviews. Answered, never stored.

use http::Response;
use serde_json::{Value, json};

use super::respond::{self, Body};
use super::{Call, write};
use crate::api::authn::token::{Bound, Claims, Ref};
use crate::api::authn::{self, User};
use crate::api::authz::{self, Action};
use crate::api::defaults::metadata::uid;
use crate::api::now;
use crate::api::refusal::{Answer, Cause, Refusal};
use crate::api::store::Name;

const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;
/// What pods ask for; such tokens live longer than they are used, as in real clusters, so that old programs that don't
/// read their token again go on.
const POD_SECONDS: i64 = 3607;
const YEAR_SECONDS: i64 = 365 * 24 * 3600;

/// POST of a review.
pub async fn answer(call: Call) -> Answer<Response<Body>> {
    let (mut review, _) = write::body_object(&call)?;
    review["apiVersion"] = call.target.kind.api_version().into();
    review["kind"] = call.target.kind.kind.clone().into();
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    review["status"] = match call.target.kind.kind.as_str() {
        "TokenReview" => token_review(&call, &review["spec"])?,
        "SelfSubjectReview" => json!({"userInfo": call.user.info()}),
        "SubjectAccessReview" => access(&call, &other_user(&review["spec"])?, &review["spec"], None)?,
        "LocalSubjectAccessReview" => access(&call, &other_user(&review["spec"])?, &review["spec"], Some(&call.target.namespace))?,
        "SelfSubjectAccessReview" => access(&call, &call.user, &review["spec"], None)?,
        _ => rules(&call, &review["spec"]),
    };
    Ok(respond::json(201, &review))
}

fn token_review(call: &Call, spec: &Value) -> Answer<Value> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Refusal::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    let found = authn::by_token(&call.core.store, &call.core.tokens, token, &audiences, now().as_second());
    Ok(match found {
        Ok((user, common)) => json!({"authenticated": true, "user": user.info(), "audiences": common}),
        Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
    })
}

fn other_user(spec: &Value) -> Answer<User> {
    let texts = |v: &Value| v.as_array().into_iter().flatten().filter_map(|g| g.as_str().map(str::to_owned)).collect();
    let name = spec["user"].as_str().unwrap_or_default().to_owned();
    let groups: Vec<String> = texts(&spec["groups"]);
    if name.is_empty() && groups.is_empty() {
        let message = "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user or group must be specified";
        return Err(Refusal::new(422, "Invalid", message));
    }
    Ok(User { name, groups, ..User::default() })
}

fn access(call: &Call, user: &User, spec: &Value, namespace: Option<&str>) -> Answer<Value> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() == path.is_object() {
        let message = format!(
            "{}.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            call.target.kind.kind
        );
        return Err(Refusal::new(422, "Invalid", message));
    }
    let action = match path.is_object() {
        true => Action { verb: text(&path["verb"]), path: text(&path["path"]), ..Action::default() },
        false => Action {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: namespace.map_or_else(|| text(&resource["namespace"]), str::to_owned),
            name: text(&resource["name"]),
            path: String::new(),
        },
    };
    let allowed = call.core.store.read(|store| authz::allowed(store, user, &action));
    Ok(if allowed { json!({"allowed": true, "reason": "RBAC: allowed"}) } else { json!({"allowed": false}) })
}

fn rules(call: &Call, spec: &Value) -> Value {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    let all = call.core.store.read(|store| authz::rules(store, &call.user, namespace));
    let (paths, resources): (Vec<Value>, Vec<Value>) = all.into_iter().partition(|r| r["nonResourceURLs"].is_array());
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

/// POST of `serviceaccounts/NAME/token`.
pub async fn token_request(call: Call) -> Answer<Response<Body>> {
    let target = &call.target;
    let mut request = write::parsed(&call)?;
    let account = call.core.store.find("/serviceaccounts", &target.stored_name());
    let account = account.ok_or_else(|| Refusal::not_found(&target.kind, &target.name))?;
    let spec = &request["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    check_seconds(seconds)?;
    let mut audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences.push(call.core.tokens.issuer().to_owned());
    }
    let uid_text = |v: &Value| v["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let mut bound = Bound {
        namespace: target.namespace.clone(),
        serviceaccount: Ref { name: target.name.clone(), uid: uid_text(&account.value) },
        node: None,
        pod: None,
        secret: None,
    };
    bind(&call, &spec["boundObjectRef"], &mut bound)?;
    let lives = if seconds == POD_SECONDS && bound.pod.is_some() { YEAR_SECONDS } else { seconds };
    let at = now().as_second();
    let claims = Claims {
        aud: audiences.clone(),
        exp: at + lives,
        iat: at,
        iss: call.core.tokens.issuer().to_owned(),
        jti: uid(),
        bound,
        nbf: at,
        sub: format!("system:serviceaccount:{}:{}", target.namespace, target.name),
    };
    let token = call.core.tokens.sign(&claims).ok_or_else(|| Refusal::internal("the token can't be signed"))?;
    let until = jiff::Timestamp::from_second(at + seconds).map_err(Refusal::internal)?;
    request["kind"] = "TokenRequest".into();
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["metadata"] =
        json!({"name": target.name, "namespace": target.namespace, "uid": uid(), "creationTimestamp": crate::api::now_text()});
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    if request["spec"]["boundObjectRef"].is_null() {
        request["spec"]["boundObjectRef"] = Value::Null;
    }
    request["status"] = json!({"token": token, "expirationTimestamp": until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    Ok(respond::json(201, &request))
}

fn check_seconds(seconds: i64) -> Answer<()> {
    let why = match seconds {
        s if s < MIN_SECONDS => "may not specify a duration less than 10 minutes",
        s if s > MAX_SECONDS => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let cause = Cause {
        reason: "FieldValueInvalid",
        message: format!("Invalid value: {seconds}: {why}"),
        field: "spec.expirationSeconds".into(),
    };
    let message = format!("TokenRequest.authentication.k8s.io \"\" is invalid: {}: {}", cause.field, cause.message);
    let mut refusal = Refusal::new(422, "Invalid", message);
    refusal.details = json!({"group": "authentication.k8s.io", "kind": "TokenRequest",
        "causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field}]});
    Err(refusal)
}

/// Binds a token to the pod or secret that asks for it.
fn bind(call: &Call, reference: &Value, bound: &mut Bound) -> Answer<()> {
    if !reference.is_object() {
        return Ok(());
    }
    let (bucket, plural) = match reference["kind"].as_str() {
        Some("Pod") => ("/pods", "pods"),
        Some("Secret") => ("/secrets", "secrets"),
        _ => {
            let shown = reference["kind"].as_str().unwrap_or_default();
            return Err(Refusal::bad_request(format!("cannot bind token to object of type {shown}")));
        }
    };
    let name = reference["name"].as_str().unwrap_or_default();
    let kinds = call.core.store.kinds();
    let kind = kinds.find("", "v1", plural).ok_or_else(Refusal::no_such_path)?;
    let found = call.core.store.find(bucket, &Name::new(&call.target.namespace, name));
    let found = found.ok_or_else(|| Refusal::not_found(&kind, name))?;
    let has = found.value["metadata"]["uid"].as_str().unwrap_or_default();
    if let Some(wanted) = reference["uid"].as_str().filter(|u| !u.is_empty() && *u != has) {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Refusal::conflict(&kind, name, &why));
    }
    let object = Some(Ref { name: name.into(), uid: has.into() });
    if bucket == "/secrets" {
        bound.secret = object;
        return Ok(());
    }
    let runs_as = found.value["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    if runs_as != call.target.name {
        let message = format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
            call.target.name
        );
        return Err(Refusal::bad_request(message));
    }
    bound.pod = object;
    if let Some(node) = found.value["spec"]["nodeName"].as_str() {
        let known = call.core.store.find("/nodes", &Name::new("", node));
        let uid = known.and_then(|n| n.value["metadata"]["uid"].as_str().map(str::to_owned)).unwrap_or_default();
        bound.node = Some(Ref { name: node.into(), uid });
    }
    Ok(())
}
