//! Create, update, patch, delete: read what is there, make the new object, let admission and validation judge it, and
//! store it unless someone was faster.

use std::sync::Arc;

use http::Response;
use serde_json::{Value, json};

use super::respond::{self, Body};
use super::{Call, protobuf, read};
use crate::api::admission::{self, Operation, Request as AdmissionRequest};
use crate::api::defaults::represent::{represent, stored};
use crate::api::defaults::{self, metadata};
use crate::api::patch::{self, apply, fields, fields::Writer};
use crate::api::refusal::{Answer, Refusal};
use crate::api::schema::Shape;
use crate::api::schema::kinds::{Kind, Kinds};
use crate::api::store::shared::Write;
use crate::api::store::{Name, Object};
use crate::api::validate::{self, decode};
use crate::api::{collect, now_text};

/// How often a change without a precondition is tried again when others are faster.
const RETRIES: usize = 8;

/// A new object that someone overtook, or that is refused.
enum Failed {
    Overtaken,
    Refused(Refusal),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Failed::Refused(refusal)
    }
}

/// What a write yields.
struct Written {
    object: Value,
    created: bool,
    warnings: Vec<String>,
}

fn done(call: &Call, written: Written) -> Answer<Response<Body>> {
    let form = respond::form(call.head.headers())?;
    let object = read::shaped(&call.target.kind, written.object, form, &call.target.query);
    let mut response = respond::json(if written.created { 201 } else { 200 }, &object);
    let mut warnings = read::deprecation(&call.target.kind);
    warnings.extend(written.warnings);
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// Who writes, for field ownership.
fn writer(call: &Call, operation: &'static str) -> Answer<Writer> {
    let agent = call.head.headers().get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let by_agent = agent.split('/').next().filter(|a| !a.is_empty()).unwrap_or("unknown");
    let manager = call.target.query.text("fieldManager").unwrap_or(by_agent);
    if manager.len() > MAX_MANAGER {
        return Err(Refusal::bad_request(format!("fieldManager: Too long: may not be more than {MAX_MANAGER} bytes")));
    }
    Ok(Writer {
        manager: manager.to_owned(),
        operation,
        subresource: call.target.subresource.clone(),
        api_version: call.target.kind.api_version(),
        time: now_text(),
    })
}

const MAX_MANAGER: usize = 128;

/// The body as an object of the target's kind, pruned; and what is to be said about it.
pub fn body_object(call: &Call) -> Answer<(Value, Vec<String>)> {
    let object = parsed(call)?;
    check_type(call, &object)?;
    cleaned(call, object)
}

/// The body as JSON, however it is written.
pub fn parsed(call: &Call) -> Answer<Value> {
    let content_type = call.head.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let media = content_type.and_then(|c| c.split(';').next()).unwrap_or("application/json").trim();
    let object = match media {
        "application/json" | "" => serde_json::from_slice(&call.body).map_err(|e| e.to_string()),
        "application/yaml" => yaml(&call.body),
        protobuf::MEDIA if call.target.kind.custom.is_none() => {
            let kinds = call.core.store.kinds();
            protobuf::read(&call.body, |version, kind| protobuf_shape(&kinds, version, kind))
                .ok_or_else(|| "malformed protobuf".into())
        }
        _ => {
            let message = "the body of the request was in an unknown format - accepted media types include: application/json";
            return Err(Refusal::new(415, "UnsupportedMediaType", message));
        }
    };
    let wanted = &call.target.kind.kind;
    object.map_err(|e: String| Refusal::bad_request(format!("the object provided is unrecognized (must be of type {wanted}): {e}")))
}

/// Also what only subresources take.
fn protobuf_shape(kinds: &Kinds, version: &str, kind: &str) -> Option<Shape> {
    match kind {
        "TokenRequest" => Some(Shape::Named("authentication.v1.TokenRequest")),
        "Eviction" => Some(Shape::Named("policy.v1.Eviction")),
        "Binding" => Some(Shape::Named("core.v1.Binding")),
        "Scale" => Some(Shape::Named("autoscaling.v1.Scale")),
        "DeleteOptions" => Some(Shape::Named("meta.v1.DeleteOptions")),
        _ => kinds.of(version, kind).map(|k| k.shape.clone()),
    }
}

fn check_type(call: &Call, object: &Value) -> Answer<()> {
    let kind = &call.target.kind;
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let (version, name) = (text("apiVersion"), text("kind"));
    if !object.is_object() {
        return Err(Refusal::bad_request("the object provided is unrecognized: not a JSON object"));
    }
    if kind.custom.is_none() && version.is_empty() && name.is_empty() {
        return Ok(());
    }
    if version != kind.api_version() {
        let wanted = kind.api_version();
        return Err(Refusal::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    if name != kind.kind {
        let (version, wanted) = (&kind.version, &kind.kind);
        let internal = kind.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
        let why = match call.core.store.kinds().of(&kind.api_version(), name) {
            Some(_) => format!("converting ({version}.{name}) to ({internal}.{wanted}): unknown conversion"),
            None => format!("no kind \"{name}\" is registered for version \"{}\"", kind.api_version()),
        };
        let message = format!("{name} in version \"{version}\" cannot be handled as a {wanted}: {why}");
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

/// Drops or refuses what the schema doesn't know, as `fieldValidation` asks.
fn cleaned(call: &Call, mut object: Value) -> Answer<(Value, Vec<String>)> {
    let kind = &call.target.kind;
    let report = decode::clean(&kind.shape, &mut object, kind.custom.is_none());
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let cannot = |why: &str| {
        let content_type = call.head.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if content_type.is_some_and(|c| c.starts_with("application/apply-patch")) {
            // Kubernetes calls it its own fault.
            return Refusal::new(500, "", format!("failed to create typed patch object: {why}"));
        }
        if call.target.verb == super::target::Verb::Patch {
            let said = String::from_utf8_lossy(&call.body).into_owned();
            return Refusal::invalid(kind, &name, vec![validate::invalid("patch", &said.into(), why)]);
        }
        let message = format!("{} in version \"{}\" cannot be handled as a {}: {why}", kind.kind, kind.version, kind.kind);
        Refusal::bad_request(message)
    };
    if let Some(wrong) = report.wrong.first() {
        return Err(cannot(wrong));
    }
    match call.target.query.text("fieldValidation") {
        Some("Strict") if !report.unknown.is_empty() => {
            Err(cannot(&format!("strict decoding error: {}", report.unknown.join(", "))))
        }
        Some("Ignore") => Ok((object, Vec::new())),
        _ => Ok((object, report.unknown)),
    }
}

/// POST.
pub async fn create(call: Call) -> Answer<Response<Body>> {
    let (object, warnings) = body_object(&call)?;
    let mut written = create_object(&call, object, &writer(&call, "Update")?, None).await?;
    written.warnings.splice(0..0, warnings);
    done(&call, written)
}

/// The path of a new object. `applied` are the fields an apply patch names.
async fn create_object(call: &Call, mut object: Value, writer: &Writer, applied: Option<&fields::Set>) -> Answer<Written> {
    let target = &call.target;
    let kind = &target.kind;
    metadata::on_create(kind, target, &mut object)?;
    admission::namespace_accepts(&call.core, kind, &object)?;
    let sent = object.clone();
    defaults::apply(kind, &mut object);
    defaults::on_create(kind, &mut object);
    let mut warnings = Vec::new();
    admission::builtin(&call.core, kind, Operation::Create, &mut object)?;
    let request = admission_request(call, Operation::Create, None);
    object = admission::mutate(&call.core, &request, object, &mut warnings).await?;
    decode::clean(&kind.shape, &mut object, kind.custom.is_none());
    defaults::apply(kind, &mut object);
    defaults::service::allocate(&call.core, kind, None, &mut object)?;
    validate::on_create(kind, &object)?;
    match applied {
        Some(set) => fields::record_apply(&mut object, set, writer),
        None => fields::record_update(kind, None, &sent, &mut object, writer),
    }
    admission::validate(&call.core, &request, Some(&object), &mut warnings).await?;
    if target.query.dry_run() {
        return Ok(Written { object, created: true, warnings });
    }
    let name = Name::of(&object);
    let kept = stored(kind, object);
    let change = call.core.store.write(&kind.bucket, &name, |_, current| match current {
        Some(_) => Err(Refusal::already_exists(kind, &name.name)),
        None => Ok(Write::Put(kept)),
    })?;
    let object = change.map(|c| represent(kind, &c.after.value)).unwrap_or_default();
    collect::after_create(&call.core, kind, &object);
    Ok(Written { object, created: true, warnings })
}

/// PUT.
pub async fn update(call: Call) -> Answer<Response<Body>> {
    let (object, warnings) = body_object(&call)?;
    let writer = writer(&call, "Update")?;
    let target = &call.target;
    let versioned = object["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty());
    if creates_on_update(&target.kind) && !versioned && call.core.store.find(&target.kind.bucket, &target.stored_name()).is_none() {
        let written = create_object(&call, object, &writer, None).await?;
        return done(&call, written);
    }
    let mut written = change(&call, &writer, |_| Ok((object.clone(), None))).await?;
    written.warnings.splice(0..0, warnings);
    done(&call, written)
}

/// Kinds that a PUT may create, as history has it.
fn creates_on_update(kind: &Kind) -> bool {
    matches!(&*kind.bucket, "/services" | "/endpoints" | "/events" | "coordination.k8s.io/leases")
        || kind.group == "rbac.authorization.k8s.io"
}

/// PATCH.
pub async fn patch(call: Call) -> Answer<Response<Body>> {
    let content_type = call.head.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let format = patch::Format::of(content_type.unwrap_or_default())?;
    if format == patch::Format::Apply {
        return apply_patch(call).await;
    }
    let body: Value = serde_json::from_slice(&call.body).map_err(|e| Refusal::bad_request(e.to_string()))?;
    let writer = writer(&call, "Update")?;
    let said = parking_lot::Mutex::new(Vec::new());
    let mut written = change(&call, &writer, |old| {
        let patched = patch::patched(format, &call.target.kind, old, &body)?;
        let (object, warnings) = cleaned(&call, patched)?;
        *said.lock() = warnings;
        Ok((object, None))
    })
    .await?;
    written.warnings.splice(0..0, said.into_inner());
    done(&call, written)
}

/// PATCH with `apply-patch+yaml`: what the patch names is set and owned, what its manager no longer names goes.
async fn apply_patch(call: Call) -> Answer<Response<Body>> {
    let target = &call.target;
    let parsed = serde_json::from_slice(&call.body).map_err(|e| e.to_string()).or_else(|_| yaml(&call.body));
    let body: Value = parsed.map_err(|e| Refusal::bad_request(format!("error decoding YAML: {e}")))?;
    if target.query.text("fieldManager").is_none() {
        let mut refusal = Refusal::new(
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        );
        refusal.details = json!({"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [
            {"reason": "FieldValueRequired", "message": "Required value: is required for apply patch", "field": "fieldManager"}]});
        return Err(refusal);
    }
    check_type(&call, &body)?;
    let (mut applied, warnings) = cleaned(&call, body)?;
    if !applied["metadata"]["managedFields"].is_null() {
        return Err(Refusal::bad_request("metadata.managedFields must be nil"));
    }
    metadata::check_names(&target.kind, target, &mut applied)?;
    let writer = writer(&call, "Apply")?;
    let set = apply::owned(&target.kind, &target.subresource, &applied);
    let mut written = if call.core.store.find(&target.kind.bucket, &target.stored_name()).is_none() {
        if !target.subresource.is_empty() {
            return Err(Refusal::not_found(&target.kind, &target.name));
        }
        if !applied["metadata"]["uid"].is_null() {
            return Err(Refusal::conflict(&target.kind, &target.name, "uid mismatch: the provided object specified uid"));
        }
        let object = apply::merged(&target.kind, &json!({}), &applied);
        create_object(&call, object, &writer, Some(&set)).await?
    } else {
        let force = target.query.flag("force");
        change(&call, &writer, |old| {
            let object = apply::apply(&target.kind, old, &applied, &set, &writer, force)?;
            Ok((object, Some(set.clone())))
        })
        .await?
    };
    written.warnings.splice(0..0, warnings);
    done(&call, written)
}

fn yaml(body: &[u8]) -> Result<Value, String> {
    serde_yaml_ng::from_slice(body).map_err(|e| e.to_string())
}

/// What a patch or update makes of the old object, and the fields an apply names.
type Made = (Value, Option<fields::Set>);

/// Changes what is there, again when someone was faster and the client named no version.
async fn change(call: &Call, writer: &Writer, make: impl Fn(&Value) -> Answer<Made>) -> Answer<Written> {
    let target = &call.target;
    for _ in 0..RETRIES {
        let found = call.core.store.find(&target.kind.bucket, &target.stored_name());
        let current = found.ok_or_else(|| Refusal::not_found(&target.kind, &target.name))?;
        let old = represent(&target.kind, &current.value);
        let (new, applied) = make(&old)?;
        let demanded = demanded_version(&old, &new, &call.target)?;
        match change_once(call, writer, &current, &old, new, applied).await {
            Ok(written) => return Ok(written),
            Err(Failed::Refused(refusal)) => return Err(refusal),
            Err(Failed::Overtaken) if demanded => break,
            Err(Failed::Overtaken) => {}
        }
    }
    Err(Refusal::modified(&target.kind, &target.name))
}

/// Whether the client insists on a version; refuses when it is another.
fn demanded_version(old: &Value, new: &Value, target: &super::target::Target) -> Answer<bool> {
    let (has, wants) = (&old["metadata"], &new["metadata"]);
    if let Some(uid) = wants["uid"].as_str().filter(|u| !u.is_empty() && has["uid"] != *u) {
        let has = has["uid"].as_str().unwrap_or_default();
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {has}");
        return Err(Refusal::conflict(&target.kind, &target.name, &why));
    }
    match wants["resourceVersion"].as_str().filter(|v| !v.is_empty() && *v != "0") {
        None => Ok(false),
        Some(wanted) if has["resourceVersion"] == wanted => Ok(target.verb == super::target::Verb::Update),
        Some(_) => Err(Refusal::modified(&target.kind, &target.name)),
    }
}

async fn change_once(
    call: &Call,
    writer: &Writer,
    current: &Arc<Object>,
    old: &Value,
    mut new: Value,
    applied: Option<fields::Set>,
) -> Result<Written, Failed> {
    let target = &call.target;
    let kind = &target.kind;
    metadata::check_names(kind, target, &mut new)?;
    new["apiVersion"] = old["apiVersion"].clone();
    new["kind"] = old["kind"].clone();
    let resets = metadata::on_update(kind, &target.subresource, old, &mut new);
    defaults::apply(kind, &mut new);
    let mut warnings = Vec::new();
    admission::builtin(&call.core, kind, Operation::Update, &mut new)?;
    let request = admission_request(call, Operation::Update, Some(old.clone()));
    new = admission::mutate(&call.core, &request, new, &mut warnings).await?;
    decode::clean(&kind.shape, &mut new, kind.custom.is_none());
    defaults::apply(kind, &mut new);
    resets.restore(old, &mut new);
    metadata::count_generation(kind, &target.subresource, old, &mut new);
    defaults::service::allocate(&call.core, kind, Some(old), &mut new)?;
    validate::on_update(kind, &target.subresource, old, &new)?;
    match &applied {
        Some(set) => fields::record_apply(&mut new, set, writer),
        None => fields::record_update(kind, Some(old), &new.clone(), &mut new, writer),
    }
    admission::validate(&call.core, &request, Some(&new), &mut warnings).await?;
    if target.query.dry_run() || fields::same_but_times(old, &new) {
        let object = if target.query.dry_run() { new } else { old.clone() };
        return Ok(Written { object, created: false, warnings });
    }
    let object = store_change(call, current, new)?;
    Ok(Written { object, created: false, warnings })
}

/// Stores a changed object, or removes it when its last finalizer went.
fn store_change(call: &Call, current: &Arc<Object>, new: Value) -> Result<Value, Failed> {
    let target = &call.target;
    let kept = stored(&target.kind, new);
    let change = call.core.store.write(&target.kind.bucket, &target.stored_name(), |_, now| {
        match now {
            Some(now) if now.revision == current.revision => {}
            _ => return Err(Failed::Overtaken),
        }
        Ok(if metadata::finished(&target.kind, &kept) { Write::Remove(Some(kept)) } else { Write::Put(kept) })
    })?;
    Ok(change.map(|c| represent(&target.kind, &c.after.value)).unwrap_or_default())
}

fn admission_request(call: &Call, operation: Operation, old: Option<Value>) -> AdmissionRequest {
    AdmissionRequest {
        kind: call.target.kind.clone(),
        operation,
        subresource: call.target.subresource.clone(),
        namespace: call.target.namespace.clone(),
        name: call.target.name.clone(),
        user: call.user.clone(),
        old,
        dry_run: call.target.query.dry_run(),
    }
}

fn delete_options(call: &Call) -> Answer<collect::Options> {
    if call.body.is_empty() {
        return collect::Options::parse(&[], &call.target.query);
    }
    collect::Options::parse(parsed(call)?.to_string().as_bytes(), &call.target.query)
}

/// DELETE of one.
pub async fn delete(call: Call) -> Answer<Response<Body>> {
    let options = delete_options(&call)?;
    let target = &call.target;
    let (object, gone) = delete_object(&call, &target.stored_name(), &options).await?;
    let whole = matches!(target.kind.bucket.as_ref(), "/pods" | "/services" | "/serviceaccounts");
    if !gone || whole {
        return done(&call, Written { object, created: false, warnings: Vec::new() });
    }
    let mut details = json!({"name": target.name, "kind": target.kind.plural, "uid": object["metadata"]["uid"]});
    if !target.kind.group.is_empty() {
        details["group"] = target.kind.group.clone().into();
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(respond::json(200, &status))
}

/// Deletes, or marks for deletion; the object and whether it is gone.
pub async fn delete_object(call: &Call, name: &Name, options: &collect::Options) -> Answer<(Value, bool)> {
    let kind: &Kind = &call.target.kind;
    let missing = || Refusal::not_found(kind, &name.name);
    let current = call.core.store.find(&kind.bucket, name).ok_or_else(missing)?;
    let old = represent(kind, &current.value);
    let mut request = admission_request(call, Operation::Delete, Some(old.clone()));
    request.name.clone_from(&name.name);
    admission::may_delete(kind, name)?;
    let mut warnings = Vec::new();
    admission::mutate(&call.core, &request, Value::Null, &mut warnings).await?;
    admission::validate(&call.core, &request, None, &mut warnings).await?;
    if call.target.query.dry_run() || options.dry_run {
        return Ok((old, true));
    }
    let change = collect::delete(&call.core, kind, name, options)?;
    Ok(match change {
        Some(change) => (represent(kind, &change.after.value), change.deleted),
        None => (old, false),
    })
}

/// DELETE of many.
pub async fn delete_collection(call: Call) -> Answer<Response<Body>> {
    let options = delete_options(&call)?;
    let target = &call.target;
    let (labels, fields) = (target.labels()?, target.fields()?);
    let mut items = Vec::new();
    for object in call.core.store.list(&target.kind.bucket, &target.namespace) {
        if !read::selected(&target.kind, &object.value, &labels, &fields) {
            continue;
        }
        match delete_object(&call, &Name::of(&object.value), &options).await {
            Ok((object, _)) => items.push(object),
            // Someone else deleted it meanwhile.
            Err(refusal) if refusal.code == 404 => {}
            Err(refusal) => return Err(refusal),
        }
    }
    let revision = call.core.store.read(|s| s.revision()).to_string();
    let list = json!({"kind": target.kind.list_kind, "apiVersion": target.kind.api_version(),
        "metadata": {"resourceVersion": revision}, "items": items});
    Ok(respond::json(200, &list))
}

/// A merge patch of our own making, for subresources that write a part of the object; the object after it.
pub async fn merge_into(call: Call, change_wanted: Value) -> Answer<Value> {
    let writer = writer(&call, "Update")?;
    let written = change(&call, &writer, |old| {
        let mut new = old.clone();
        // Without a version the change goes on whatever is there.
        new["metadata"].as_object_mut().map(|m| m.remove("resourceVersion"));
        patch::merge(&mut new, &change_wanted);
        Ok((new, None))
    })
    .await?;
    Ok(written.object)
}
