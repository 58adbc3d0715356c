//! Watches: a cursor into the store's window of changes. A slow client costs nothing but its place; when that has left
//! the window, it is told 410 and lists again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::respond::{self, Body, Form};
use super::{Call, read};
use crate::api::Core;
use crate::api::defaults::represent::represent;
use crate::api::refusal::{Answer, Refusal};
use crate::api::schema::kinds::Kind;
use crate::api::store::selector::{Fields, Labels};
use crate::api::store::{Change, Forgotten, Object};
use crate::api::table;

/// How often a quiet watch tells how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(55);
/// A watch without `timeoutSeconds` ends after about so long, as a real one.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

struct Watch {
    core: Arc<Core>,
    kind: Arc<Kind>,
    namespace: String,
    labels: Labels,
    fields: Fields,
    form: Form,
    include: Option<String>,
    /// The column heads come with the first row only.
    headed: bool,
    bookmarks: bool,
    /// Everything up to here has been said.
    cursor: u64,
    ready: VecDeque<Bytes>,
    bell: tokio::sync::watch::Receiver<u64>,
    until: Instant,
    bookmark_at: Instant,
    ended: bool,
}

/// Opens a watch.
pub fn answer(call: Call) -> Answer<Response<Body>> {
    let target = &call.target;
    let query = &target.query;
    let timeout = query.number::<u64>("timeoutSeconds")?.filter(|s| *s > 0).map(Duration::from_secs);
    let mut watch = Watch {
        core: call.core.clone(),
        kind: target.kind.clone(),
        namespace: target.namespace.clone(),
        labels: target.labels()?,
        fields: target.fields()?,
        form: respond::form(call.head.headers())?,
        include: query.text("includeObject").map(str::to_owned),
        headed: false,
        bookmarks: query.flag("allowWatchBookmarks"),
        cursor: 0,
        ready: VecDeque::new(),
        bell: call.core.store.bell(&target.kind.bucket),
        until: Instant::now() + timeout.unwrap_or(DEFAULT_TIMEOUT),
        bookmark_at: Instant::now() + BOOKMARK_EVERY,
        ended: false,
    };
    watch.begin(&call)?;
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(line)), watch))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(stream)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    respond::warn(&mut response, &read::deprecation(&target.kind));
    Ok(response)
}

impl Watch {
    /// Where to begin: at a revision, or with all there is (no revision, `0`, or `sendInitialEvents`).
    fn begin(&mut self, call: &Call) -> Answer<()> {
        let query = &call.target.query;
        let given = query.text("resourceVersion");
        let initial = query.text("sendInitialEvents").is_some_and(|v| v == "true");
        check_initial(query)?;
        let (current, past, present) = self.core.store.read(|store| {
            let objects: Vec<_> = store.list(&self.kind.bucket, &self.namespace).cloned().collect();
            let from = given.and_then(|g| g.parse().ok()).unwrap_or(0);
            (store.revision(), store.since(&self.kind.bucket, from), objects)
        });
        if let Some(given) = given {
            read::check_revision(given, current)?;
        }
        if initial || matches!(given, None | Some("0")) && query.text("sendInitialEvents").is_none() {
            self.cursor = current;
            for object in present {
                if self.fits(&object) {
                    self.say("ADDED", &object.value, object.revision);
                }
            }
            if initial && self.bookmarks {
                self.bookmark(true);
            }
            return Ok(());
        }
        self.cursor = given.and_then(|g| g.parse().ok()).filter(|r| *r > 0).unwrap_or(current);
        if let Err(forgotten) = past
            && self.cursor < current
        {
            self.expire(forgotten);
        }
        Ok(())
    }

    fn fits(&self, object: &Object) -> bool {
        let inside = self.namespace.is_empty() || object.value["metadata"]["namespace"] == self.namespace.as_str();
        inside && read::selected(&self.kind, &object.value, &self.labels, &self.fields)
    }

    /// The next line, or the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.bell.mark_unchanged();
            if self.catch_up() {
                continue;
            }
            let wake = self.until.min(self.bookmark_at);
            tokio::select! {
                rung = self.bell.changed() => rung.ok()?,
                () = tokio::time::sleep_until(wake) => {
                    if Instant::now() >= self.until {
                        return None;
                    }
                    if self.bookmarks {
                        self.bookmark(false);
                    }
                    self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
                }
            }
        }
    }

    /// Says what has changed since the cursor; whether there was anything to say.
    fn catch_up(&mut self) -> bool {
        let (changes, revision) = self.core.store.read(|store| (store.since(&self.kind.bucket, self.cursor), store.revision()));
        match changes {
            Ok(changes) => changes.iter().for_each(|change| self.tell(change)),
            Err(forgotten) => self.expire(forgotten),
        }
        self.cursor = revision;
        !self.ready.is_empty()
    }

    /// A change as this watch sees it: what leaves the selection is deleted, what enters it is added.
    fn tell(&mut self, change: &Change) {
        let was = change.before.as_ref().is_some_and(|b| self.fits(b));
        let is = !change.deleted && self.fits(&change.after);
        match (was, is) {
            (false, true) => self.say("ADDED", &change.after.value, change.revision),
            (true, true) => self.say("MODIFIED", &change.after.value, change.revision),
            (true, false) if change.deleted => self.say("DELETED", &change.after.value, change.revision),
            (true, false) => {
                // The last state that fitted, at the revision it left.
                let last = change.before.as_ref().map(|b| b.value.clone()).unwrap_or_default();
                self.say("DELETED", &last, change.revision);
            }
            (false, false) => {}
        }
    }

    fn say(&mut self, what: &str, stored: &Value, revision: u64) {
        let mut object = represent(&self.kind, stored);
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let object = match self.form {
            Form::Object => object,
            Form::Metadata => table::metadata(&object),
            Form::Table => {
                let metadata = json!({"resourceVersion": revision.to_string()});
                let heads = !std::mem::replace(&mut self.headed, true);
                table::render(&self.kind, &[&object], metadata, self.include.as_deref(), heads)
            }
        };
        self.push(&json!({"type": what, "object": object}));
    }

    fn push(&mut self, event: &Value) {
        let mut line = event.to_string();
        line.push('\n');
        self.ready.push_back(line.into());
    }

    fn bookmark(&mut self, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Table => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": null, "rows": []}),
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Object => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
        };
        self.push(&json!({"type": "BOOKMARK", "object": object}));
    }

    fn expire(&mut self, forgotten: Forgotten) {
        let message = format!("too old resource version: {} ({})", self.cursor, forgotten.oldest);
        let status = Refusal::expired(message).status();
        self.push(&json!({"type": "ERROR", "object": status}));
        self.ended = true;
    }
}

/// `sendInitialEvents` and `resourceVersionMatch` only make sense together.
fn check_initial(query: &super::target::Query) -> Answer<()> {
    let (initial, matching) = (query.text("sendInitialEvents"), query.text("resourceVersionMatch"));
    let cause = match (initial, matching) {
        (None, Some(_)) => {
            let message = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            ("resourceVersionMatch", message.to_owned())
        }
        (Some(_), None) => {
            let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            ("resourceVersionMatch", message.to_owned())
        }
        (Some(_), Some(other)) if other != "NotOlderThan" => {
            let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            ("resourceVersionMatch", message.to_owned())
        }
        _ => return Ok(()),
    };
    let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {}: Forbidden: {}", cause.0, cause.1);
    let mut refusal = Refusal::new(422, "Invalid", message);
    refusal.details = json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": [
        {"reason": "FieldValueForbidden", "message": format!("Forbidden: {}", cause.1), "field": cause.0}]});
    Err(refusal)
}
