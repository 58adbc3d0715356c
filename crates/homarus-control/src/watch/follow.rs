//! Follows one kind of object.

use super::{News, kinds::Source};
use futures::{Stream, StreamExt};
use homarus_daemon::Gate;
use homarus_kube::objects::{Meta, Object, OwnerRef, read};
use homarus_model::facts::{Change, Id};
use kube::{
    Api, Client, Error as ApiError,
    api::{DynamicObject, ObjectMeta, PartialObjectMeta},
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde_json::Value;
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// How many objects a list brings at once: what one page takes is soon reduced to facts.
const PAGE: u32 = 200;
/// How long until a kind that isn't served is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: String,
}

/// What happens on watches.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    events: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
    unreadable: Family<Labels, Counter>,
}

impl Metrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("kube_watch");
        registry.register("events", "Events that watches brought", metrics.events.clone());
        registry.register("errors", "Watches and lists that failed", metrics.errors.clone());
        registry.register("unreadable", "Objects that can't be read", metrics.unreadable.clone());
        metrics
    }
}

pub(super) struct Follower {
    client: Client,
    account: Account,
}

/// What was said of a kind so far.
struct Account {
    source: Source,
    news: mpsc::Sender<News>,
    gate: Gate,
    metrics: Metrics,
    labels: Labels,
    /// The objects that are facts now.
    known: HashSet<Id>,
    /// Those of the list that is under way.
    listed: HashSet<Id>,
}

/// The hub is gone: the program is ending.
struct Gone;

enum Ended {
    NotServed,
    Gone,
}

impl Follower {
    pub(super) fn new(source: Source, client: Client, news: mpsc::Sender<News>, gate: Gate, metrics: Metrics) -> Self {
        Self { client, account: Account::new(source, news, gate, metrics) }
    }

    pub(super) async fn run(mut self) {
        let mut told = false;
        loop {
            match self.watch().await {
                Ended::Gone => return,
                Ended::NotServed => {
                    if !std::mem::replace(&mut told, true) {
                        self.tell_not_served();
                    }
                    if self.account.forget().await.is_err() {
                        return;
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    fn tell_not_served(&self) {
        let kind = &self.account.source;
        if kind.optional {
            info!(%kind, "the API server doesn't serve this kind; it is looked for again later");
        } else {
            warn!(%kind, "the API server doesn't serve this kind: install its CRD. It is looked for again, and this isn't ready before");
        }
    }

    async fn watch(&mut self) -> Ended {
        let (client, resource) = (self.client.clone(), &self.account.source.resource);
        let config = watcher::Config::default().page_size(PAGE);
        let config = self.account.source.labels.iter().fold(config, |config, labels| config.labels(labels));
        if self.account.source.metadata_only {
            let only = |partial: PartialObjectMeta<DynamicObject>| (partial.metadata, Value::Null);
            let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, resource);
            self.follow(watcher(api, config).default_backoff(), only).await
        } else {
            let api = Api::<DynamicObject>::all_with(client, resource);
            self.follow(watcher(api, config).default_backoff(), |object| (object.metadata, object.data)).await
        }
    }

    async fn follow<K>(
        &mut self,
        events: impl Stream<Item = watcher::Result<Event<K>>>,
        parts: impl Fn(K) -> (ObjectMeta, Value),
    ) -> Ended {
        tokio::pin!(events);
        while let Some(event) = events.next().await {
            let taken = match event {
                Ok(event) => self.account.take(event, &parts).await,
                Err(error) if is_not_served(&error) => return Ended::NotServed,
                Err(error) => {
                    self.account.failed(&error);
                    Ok(())
                }
            };
            if taken.is_err() {
                return Ended::Gone;
            }
        }
        Ended::Gone
    }
}

impl Account {
    fn new(source: Source, news: mpsc::Sender<News>, gate: Gate, metrics: Metrics) -> Self {
        let labels = Labels { kind: source.resource.kind.clone() };
        Self { source, news, gate, metrics, labels, known: HashSet::new(), listed: HashSet::new() }
    }

    fn failed(&self, error: &watcher::Error) {
        self.metrics.errors.get_or_create(&self.labels).inc();
        let remedy = if is_forbidden(error) { "check the controller's ClusterRole" } else { "it is tried again" };
        warn!(kind = %self.source, %error, remedy, "a watch failed");
    }

    /// The kind isn't served any more: there are no such objects. A kind that may be absent is complete with that.
    async fn forget(&mut self) -> Result<(), Gone> {
        let forgotten: Vec<_> = self.known.iter().cloned().collect();
        for id in forgotten {
            self.delete(id).await?;
        }
        match self.source.optional {
            true => self.say(News::Complete(self.gate.clone())).await,
            false => Ok(()),
        }
    }

    async fn take<K>(&mut self, event: Event<K>, parts: &impl Fn(K) -> (ObjectMeta, Value)) -> Result<(), Gone> {
        self.metrics.events.get_or_create(&self.labels).inc();
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                let id = self.apply(parts(object)).await?;
                self.listed.insert(id);
            }
            Event::InitDone => {
                let gone: Vec<_> = self.known.difference(&self.listed).cloned().collect();
                for id in gone {
                    self.delete(id).await?;
                }
                self.listed = HashSet::new();
                debug!(kind = %self.source, objects = self.known.len(), "listed");
                self.say(News::Complete(self.gate.clone())).await?;
            }
            Event::Apply(object) => {
                self.apply(parts(object)).await?;
            }
            Event::Delete(object) => self.delete(meta(parts(object).0).id()).await?,
        }
        Ok(())
    }

    async fn delete(&mut self, id: Id) -> Result<(), Gone> {
        self.known.remove(&id);
        self.say(News::Change(Change::Delete(self.source.kind, id))).await
    }

    /// Takes in an object. If it can't be read, the last state of it that could stays in force.
    async fn apply(&mut self, (metadata, body): (ObjectMeta, Value)) -> Result<Id, Gone> {
        let meta = meta(metadata);
        let id = meta.id();
        match read(self.source.kind, Object { meta: &meta, body: &body }) {
            Ok(readable) => {
                for defect in &readable.defects {
                    warn!(kind = %self.source.resource.kind, object = %id, %defect, "a part of an object can't be read");
                }
                self.known.insert(id.clone());
                self.say(News::Change(Change::Apply(Arc::new(readable.fact)))).await?;
            }
            Err(defect) => {
                self.metrics.unreadable.get_or_create(&self.labels).inc();
                let in_force = if self.known.contains(&id) { "as it was before" } else { "not at all" };
                warn!(kind = %self.source.resource.kind, object = %id, %defect, in_force, "an object can't be read");
            }
        }
        Ok(id)
    }

    async fn say(&self, news: News) -> Result<(), Gone> {
        self.news.send(news).await.map_err(|_| Gone)
    }
}

fn status_code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error;
    match error {
        Error::InitialListFailed(ApiError::Api(status))
        | Error::WatchStartFailed(ApiError::Api(status))
        | Error::WatchFailed(ApiError::Api(status)) => Some(status.code),
        Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

fn is_not_served(error: &watcher::Error) -> bool {
    status_code(error) == Some(404)
}

fn is_forbidden(error: &watcher::Error) -> bool {
    status_code(error) == Some(403)
}

fn meta(from: ObjectMeta) -> Meta {
    let labels = from.labels.unwrap_or_default().into_iter().map(|(k, v)| (Arc::from(k), Arc::from(v)));
    let owners = from.owner_references.unwrap_or_default().into_iter();
    Meta {
        namespace: from.namespace.unwrap_or_default().into(),
        name: from.name.unwrap_or_default().into(),
        labels: labels.collect(),
        annotations: from.annotations.unwrap_or_default(),
        creation_timestamp: from.creation_timestamp.map(|time| time.0.to_string()),
        deletion_timestamp: from.deletion_timestamp.map(|time| time.0.to_string()),
        owner_references: owners.map(|owner| OwnerRef { kind: owner.kind, name: owner.name.into() }).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::watch::{kinds, news};
    use homarus_daemon::Readiness;
    use homarus_model::facts::{Fact, Kind};
    use serde_json::json;

    /// A Server of this name on this port; 0 can't be read.
    fn server(name: &str, port: u16) -> DynamicObject {
        let object = json!({
            "metadata": { "name": name, "namespace": "ns" },
            "spec": { "podSelector": {}, "port": port },
        });
        serde_json::from_value(object).unwrap()
    }

    struct Told {
        account: Account,
        news: mpsc::Receiver<News>,
        readiness: Readiness,
    }

    impl Told {
        fn new() -> Self {
            let source = kinds::of_policy().into_iter().find(|source| source.kind == Kind::Server).unwrap();
            let (sender, receiver) = news();
            let readiness = Readiness::default();
            let gate = readiness.gate("servers");
            Self { account: Account::new(source, sender, gate, Metrics::default()), news: receiver, readiness }
        }

        /// What is said of an event: `+name` and `-name`, `!` when all is said.
        async fn hear(&mut self, event: Event<DynamicObject>) -> String {
            assert!(self.account.take(event, &|object: DynamicObject| (object.metadata, object.data)).await.is_ok());
            let mut heard = String::new();
            while let Ok(news) = self.news.try_recv() {
                heard += &match news {
                    News::Change(Change::Apply(fact)) => format!("+{}", Fact::id(&fact).name),
                    News::Change(Change::Delete(_, id)) => format!("-{}", id.name),
                    News::Complete(gate) => {
                        gate.open();
                        "!".into()
                    }
                };
            }
            heard
        }
    }

    #[tokio::test]
    async fn the_last_state_that_could_be_read_stays() {
        let mut told = Told::new();
        assert_eq!(told.hear(Event::Apply(server("a", 80))).await, "+a");
        assert_eq!(told.hear(Event::Apply(server("a", 0))).await, "");
        assert_eq!(told.hear(Event::Apply(server("never", 0))).await, "");
        assert_eq!(told.account.metrics.unreadable.get_or_create(&told.account.labels).get(), 2);
        // Also when everything is listed again.
        assert_eq!(told.hear(Event::Init).await, "");
        assert_eq!(told.hear(Event::InitApply(server("a", 0))).await, "");
        assert_eq!(told.hear(Event::InitDone).await, "!");
        assert_eq!(told.hear(Event::Delete(server("a", 0))).await, "-a");
    }

    #[tokio::test]
    async fn what_a_new_list_lacks_is_gone() {
        let mut told = Told::new();
        for event in [Event::Init, Event::InitApply(server("a", 1)), Event::InitApply(server("b", 2))] {
            told.hear(event).await;
        }
        assert_eq!(told.readiness.waiting_for(), ["servers"]);
        assert_eq!(told.hear(Event::InitDone).await, "!");
        assert!(told.readiness.waiting_for().is_empty());
        told.hear(Event::Init).await;
        assert_eq!(told.hear(Event::InitApply(server("b", 3))).await, "+b");
        assert_eq!(told.hear(Event::InitDone).await, "-a!");
    }

    #[tokio::test]
    async fn a_kind_that_goes_takes_its_objects_along() {
        let mut told = Told::new();
        told.hear(Event::Apply(server("a", 1))).await;
        assert!(told.account.forget().await.is_ok());
        assert!(matches!(told.news.try_recv(), Ok(News::Change(Change::Delete(Kind::Server, _)))));
        // A kind that has to be there isn't complete without.
        assert!(told.news.try_recv().is_err());
    }
}
