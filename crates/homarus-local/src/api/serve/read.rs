//! GET of one and of many: stored objects as a version shows them, in pages, as objects, rows or metadata.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Call;
use super::respond::{self, Body, Form};
use crate::api::defaults::represent::represent;
use crate::api::refusal::{Answer, Refusal};
use crate::api::schema::kinds::Kind;
use crate::api::store::Object;
use crate::api::store::selector::{Fields, Labels};
use crate::api::table;

/// So many unfinished lists are remembered; older ones end with 410 and are begun anew.
const MAX_PAGED_LISTS: usize = 64;

/// Lists whose next pages may still be asked for: each is one consistent moment.
#[derive(Debug, Default)]
pub struct Pages(Mutex<VecDeque<Paged>>);

#[derive(Debug, Clone)]
struct Paged {
    id: String,
    revision: u64,
    objects: Arc<Vec<Arc<Object>>>,
}

/// GET of one.
pub fn one(call: Call) -> Answer<Response<Body>> {
    let target = &call.target;
    let form = respond::form(call.head.headers())?;
    if let Some(revision) = target.query.text("resourceVersion") {
        check_revision(revision, call.core.store.read(|s| s.revision()))?;
    }
    let found = call.core.store.find(&target.kind.bucket, &target.stored_name());
    let found = found.ok_or_else(|| Refusal::not_found(&target.kind, &target.name))?;
    let object = represent(&target.kind, &found.value);
    let mut response = respond::json(200, &shaped(&target.kind, object, form, &target.query));
    respond::warn(&mut response, &deprecation(&target.kind));
    Ok(response)
}

/// What users of a deprecated version are told.
pub fn deprecation(kind: &Kind) -> Vec<String> {
    kind.custom.as_ref().and_then(|c| c.deprecation.clone()).into_iter().collect()
}

/// One object in the form asked for.
pub fn shaped(kind: &Kind, object: Value, form: Form, query: &super::target::Query) -> Value {
    match form {
        Form::Object => object,
        Form::Metadata => table::metadata(&object),
        Form::Table => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            table::render(kind, &[&object], metadata, query.text("includeObject"), true)
        }
    }
}

/// GET of many.
pub fn list(call: Call) -> Answer<Response<Body>> {
    let target = &call.target;
    let form = respond::form(call.head.headers())?;
    let (labels, fields) = (target.labels()?, target.fields()?);
    let limit = target.query.number::<usize>("limit")?.filter(|l| *l > 0);
    let (paged, from) = match target.query.text("continue") {
        Some(token) => call.core.pages.resume(token)?,
        None => (snapshot(&call)?, 0),
    };
    let rest = paged.objects.iter().enumerate().skip(from);
    let mut fitting = rest.filter(|(_, o)| selected(&target.kind, &o.value, &labels, &fields));
    let page: Vec<_> = fitting.by_ref().take(limit.unwrap_or(usize::MAX)).collect();
    let next = fitting.next().map(|(at, _)| at);
    let mut metadata = json!({"resourceVersion": paged.revision.to_string()});
    if let Some(next) = next {
        metadata["continue"] = call.core.pages.remember(&paged, next).into();
        if labels.is_empty() && fields.is_empty() {
            metadata["remainingItemCount"] = (paged.objects.len() - next).into();
        }
    }
    let items: Vec<Value> = page.iter().map(|(_, o)| represent(&target.kind, &o.value)).collect();
    if target.kind.custom.is_some() && next.is_none() && form == Form::Object {
        metadata["continue"] = "".into();
    }
    let mut response = respond::json(200, &collection(&target.kind, items, metadata, form, &target.query));
    respond::warn(&mut response, &deprecation(&target.kind));
    Ok(response)
}

/// Whether an object fits, as its kind shows it.
pub fn selected(kind: &Kind, stored: &Value, labels: &Labels, fields: &Fields) -> bool {
    if fields.is_empty() {
        return labels.matches(stored);
    }
    labels.matches(stored) && fields.matches(&represent(kind, stored))
}

fn snapshot(call: &Call) -> Answer<Paged> {
    let target = &call.target;
    let query = &target.query;
    let given = query.text("resourceVersion");
    let matching = query.text("resourceVersionMatch");
    if matching.is_some() && given.is_none() {
        let message = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
        return Err(list_options_invalid("resourceVersionMatch", "FieldValueForbidden", message));
    }
    call.core.store.read(|store| {
        if let Some(given) = given {
            let given = check_revision(given, store.revision())?;
            // Only the present is kept whole: an exact past revision is gone unless nothing happened since.
            if matching == Some("Exact") && given != store.revision() {
                return Err(Refusal::expired("The resourceVersion for the provided list is too old."));
            }
        }
        let objects: Vec<_> = store.list(&target.kind.bucket, &target.namespace).cloned().collect();
        Ok(Paged { id: String::new(), revision: store.revision(), objects: Arc::new(objects) })
    })
}

fn list_options_invalid(field: &str, reason: &'static str, message: &str) -> Refusal {
    let mut refusal = Refusal::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {message}"));
    let said = message.split_once(": ").map_or(message, |(_, said)| said);
    refusal.details = json!({"group": "meta.k8s.io", "kind": "ListOptions",
        "causes": [{"reason": reason, "message": said, "field": field}]});
    refusal
}

/// A revision that clients name must be one, and must have happened.
pub fn check_revision(text: &str, current: u64) -> Answer<u64> {
    let bad = |e| {
        let message = format!("resourceVersion: Invalid value: \"{text}\": {e}");
        Refusal::bad_request(message)
    };
    let revision: u64 = text.parse().map_err(|_| bad("strconv.ParseUint: parsing: invalid syntax"))?;
    if revision > current {
        let message = format!("Timeout: Too large resource version: {revision}, current: {current}");
        let mut refusal = Refusal::new(504, "Timeout", message);
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        refusal.details = json!({"causes": [cause], "retryAfterSeconds": 1});
        return Err(refusal);
    }
    Ok(revision)
}

/// Many objects in the form asked for.
fn collection(kind: &Kind, mut items: Vec<Value>, metadata: Value, form: Form, query: &super::target::Query) -> Value {
    match form {
        Form::Object => {
            // A list of a built-in kind says it once.
            for item in items.iter_mut().filter(|_| kind.custom.is_none()).filter_map(Value::as_object_mut) {
                item.remove("kind");
                item.remove("apiVersion");
            }
            json!({"kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": metadata, "items": items})
        }
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": items.iter().map(table::metadata).collect::<Vec<_>>(),
        }),
        Form::Table => {
            let items: Vec<&Value> = items.iter().collect();
            table::render(kind, &items, metadata, query.text("includeObject"), true)
        }
    }
}

impl Pages {
    fn remember(&self, paged: &Paged, next: usize) -> String {
        let mut all = self.0.lock();
        let mut paged = paged.clone();
        if paged.id.is_empty() {
            paged.id = format!("{:016x}", rand::random::<u64>());
            all.push_back(paged.clone());
            if all.len() > MAX_PAGED_LISTS {
                all.pop_front();
            }
        }
        BASE64.encode(format!("{}:{next}", paged.id))
    }

    fn resume(&self, token: &str) -> Answer<(Paged, usize)> {
        let invalid = || Refusal::bad_request("continue key is not valid");
        let text = BASE64.decode(token).ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(invalid)?;
        let (id, next) = text.split_once(':').ok_or_else(invalid)?;
        let next = next.parse().map_err(|_| invalid())?;
        let found = self.0.lock().iter().find(|p| p.id == id).cloned();
        let expired = "The provided continue parameter is too old to display a consistent list result. \
                       You must start a new list without the continue parameter.";
        found.map(|p| (p, next)).ok_or_else(|| Refusal::expired(expired))
    }
}
