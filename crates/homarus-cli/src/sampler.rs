//! The proxies of some pods, asked for their metrics again and again.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use tokio::time::Instant;

use crate::metrics::{Delta, Page};
use crate::reach::{Admin, ReachError, proxy_admin_port};
use crate::workloads::Member;

/// How many proxies are asked at once.
const AT_ONCE: usize = 32;

/// A pod among all pods.
pub type PodKey = (String, String);

/// What proxies count, as rounds of asking tell it.
pub struct Sampler {
    client: Client,
    rounds: usize,
    times: VecDeque<Instant>,
    proxies: HashMap<PodKey, Proxy>,
}

struct Proxy {
    admin: Admin,
    port: u16,
    /// The oldest first; none for a round in which it didn't answer.
    pages: VecDeque<Option<Page>>,
}

impl Sampler {
    /// Nothing is asked yet. The difference between the last round and the one this many before it is what counts; until
    /// there are so many, the first.
    pub fn new(client: &Client, rounds: usize) -> Self {
        Self { client: client.clone(), rounds: rounds.max(1), times: VecDeque::new(), proxies: HashMap::new() }
    }

    /// How far apart the rounds are that count; none until there are two.
    pub fn elapsed(&self) -> Option<Duration> {
        let (first, last) = (self.times.front()?, self.times.back()?);
        (self.times.len() > 1).then(|| *last - *first)
    }

    /// Asks the proxies of these pods; forgets those of others. Answers who could not be asked, and why.
    pub async fn sample<'a>(&mut self, members: impl IntoIterator<Item = &'a Member>) -> Vec<ReachError> {
        let mut known = std::mem::take(&mut self.proxies);
        let mut proxies = Vec::new();
        for member in members.into_iter().filter(|member| member.has_running_proxy()) {
            let key = (member.namespace.clone(), member.name.clone());
            let proxy = known.remove(&key).or_else(|| {
                let port = proxy_admin_port(&member.pod)?;
                Some(Proxy { admin: Admin::new(&self.client, &member.pod, port), port, pages: VecDeque::new() })
            });
            proxies.extend(proxy.map(|proxy| (key, proxy)));
        }
        let asked = futures::stream::iter(proxies).map(|(key, mut proxy)| async move {
            let answer = proxy.admin.page("/metrics").await;
            (key, proxy, answer)
        });
        let mut failures = Vec::new();
        for (key, mut proxy, answer) in asked.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
            let page = answer.map_err(|error| failures.push(error)).ok();
            remember(&mut proxy.pages, page.map(|page| Page::read(&page, proxy.port)), self.rounds);
            self.proxies.insert(key, proxy);
        }
        remember(&mut self.times, Instant::now(), self.rounds);
        failures
    }

    /// What a pod's proxy counted between the rounds that count; nothing unless it answered in the last and one before.
    pub fn delta(&self, namespace: &str, name: &str) -> Option<Delta<'_>> {
        let proxy = self.proxies.get(&(namespace.to_owned(), name.to_owned()))?;
        let last = proxy.pages.len().checked_sub(1)?;
        let first = proxy.pages.iter().position(Option::is_some).filter(|first| *first < last)?;
        Some(proxy.pages[last].as_ref()?.since(proxy.pages[first].as_ref()?))
    }
}

fn remember<T>(queue: &mut VecDeque<T>, new: T, rounds: usize) {
    queue.push_back(new);
    while queue.len() > rounds + 1 {
        queue.pop_front();
    }
}
