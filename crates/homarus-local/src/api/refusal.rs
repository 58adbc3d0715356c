//! Every way a request is refused, in the words and codes that Kubernetes clients expect (`Status` objects).

use serde_json::{Value, json};

use super::schema::kinds::Kind;

/// A refusal: the client's fault below 500 (retry only 409, 410 and 429 after reading again), ours from there.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `details` of the Status object, or null.
    pub details: Value,
}

/// The result of anything that may refuse.
pub type Answer<T> = Result<T, Refusal>;

/// A cause among the details: why, what, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, ...
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
    /// The path.
    pub field: String,
}

impl Refusal {
    /// A refusal without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Refusal { code, reason, message: message.into(), details: Value::Null }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = json!({"name": name, "group": kind.group, "kind": kind.plural});
        if kind.group.is_empty() {
            self.details = json!({"name": name, "kind": kind.plural});
        }
        self
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Refusal::new(400, "BadRequest", message)
    }

    /// 401: no one we know.
    pub fn unauthorized() -> Self {
        Refusal::new(401, "Unauthorized", "Unauthorized")
    }

    /// 404 for an object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Refusal::new(404, "NotFound", format!("{} \"{name}\" not found", kind.qualified())).about(kind, name)
    }

    /// 404 for a path.
    pub fn no_such_path() -> Self {
        let mut refusal = Refusal::new(404, "NotFound", "the server could not find the requested resource");
        refusal.details = json!({});
        refusal
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut refusal = Refusal::new(405, "MethodNotAllowed", message);
        refusal.details = json!({});
        refusal
    }

    /// 409 on create.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Refusal::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", kind.qualified())).about(kind, name)
    }

    /// 409: someone else was faster, or a precondition doesn't hold.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let what = kind.qualified();
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        Refusal::new(409, "Conflict", message).about(kind, name)
    }

    /// 409: the usual one.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Refusal::conflict(kind, name, why)
    }

    /// 403 for an object, as admission says it.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let what = kind.qualified();
        let message = match name {
            "" => format!("{what} is forbidden: {why}"),
            name => format!("{what} \"{name}\" is forbidden: {why}"),
        };
        Refusal::new(403, "Forbidden", message).about(kind, name)
    }

    /// 410: the version asked for is no longer known; list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Refusal::new(410, "Expired", message)
    }

    /// 422 with its causes.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        let said: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let said = match said.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let who = if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut refusal = Refusal::new(422, "Invalid", format!("{who} \"{name}\" is invalid: {said}"));
        let causes: Vec<Value> =
            causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect();
        refusal.details = json!({"kind": kind.kind, "causes": causes});
        if !name.is_empty() {
            refusal.details["name"] = json!(name);
        }
        if !kind.group.is_empty() {
            refusal.details["group"] = json!(kind.group);
        }
        refusal
    }

    /// 500: our fault, or a webhook's.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let mut refusal = Refusal::new(500, "InternalError", format!("Internal error occurred: {message}"));
        refusal.details = json!({"causes": [{"message": message.to_string()}]});
        refusal
    }

    /// The Status object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}
