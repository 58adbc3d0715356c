//! The proxies of some pods, asked for their metrics again and again.

use std::collections::HashMap;

use futures::StreamExt;
use kube::Client;

use crate::metrics::{Delta, Page};
use crate::reach::{Admin, ReachError, proxy_admin_port};
use crate::workloads::Member;

/// How many proxies are asked at once.
const AT_ONCE: usize = 32;

/// A pod among all pods.
pub type PodKey = (String, String);

/// What proxies count, as two rounds of asking tell it.
pub struct Sampler {
    client: Client,
    proxies: HashMap<PodKey, Proxy>,
}

struct Proxy {
    admin: Admin,
    before: Option<Page>,
    after: Option<Page>,
}

impl Sampler {
    /// Nothing is asked yet.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), proxies: HashMap::new() }
    }

    /// Asks the proxies of these pods; forgets those of others. Answers who could not be asked, and why.
    pub async fn sample<'a>(&mut self, members: impl IntoIterator<Item = &'a Member>) -> Vec<ReachError> {
        let mut known = std::mem::take(&mut self.proxies);
        let mut proxies = Vec::new();
        for member in members.into_iter().filter(|member| member.has_running_proxy()) {
            let key = (member.namespace.clone(), member.name.clone());
            let proxy = known.remove(&key).or_else(|| {
                let admin = Admin::new(&self.client, &member.pod, proxy_admin_port(&member.pod)?);
                Some(Proxy { admin, before: None, after: None })
            });
            proxies.extend(proxy.map(|proxy| (key, proxy)));
        }
        let asked = futures::stream::iter(proxies).map(|(key, mut proxy)| async move {
            let answer = proxy.admin.page("/metrics").await;
            (key, proxy, answer)
        });
        let mut failures = Vec::new();
        for (key, mut proxy, answer) in asked.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
            proxy.before = proxy.after.take();
            match answer {
                Ok(page) => proxy.after = Some(Page::read(&page)),
                Err(error) => failures.push(error),
            }
            self.proxies.insert(key, proxy);
        }
        failures
    }

    /// What a pod's proxy counted between the last two rounds; nothing unless it answered in both.
    pub fn delta(&self, namespace: &str, name: &str) -> Option<Delta<'_>> {
        let proxy = self.proxies.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(proxy.after.as_ref()?.since(proxy.before.as_ref()?))
    }
}
