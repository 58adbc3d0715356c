//! The endpoints of one backend: `Destination.Get`.

use super::{EndpointSet, Inner, MAX_MESSAGE_BYTES, cache::Sender, cache::publish, follow::follow};
use homarus_model::endpoint::{Endpoint, EndpointUpdate};
use homarus_wire::{
    api::destination::{GetDestination, destination_client::DestinationClient},
    decode,
};
use std::{collections::BTreeMap, sync::Arc};
use tonic::Code;

/// Endpoints of one backend; more are left out.
const MAX_ENDPOINTS: usize = 100_000;

/// Keeps a set of endpoints up to date.
pub(super) async fn ask(inner: &Inner, path: &Arc<str>, sender: &Sender<EndpointSet>) {
    let mut episode = inner.episodes.of("Get", &**path);
    let open = |channel| async move {
        let mut client = DestinationClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let context_token = inner.target.context_token.clone();
        client.get(GetDestination { scheme: String::new(), path: path.to_string(), context_token }).await
    };
    let mut set = EndpointSet::default();
    let codes = &[Code::InvalidArgument, Code::FailedPrecondition];
    let status = follow(&inner.destination, &mut episode, codes, open, |episode, heard| {
        let read = match decode::endpoint_update(heard.message) {
            Ok(read) => read,
            Err(error) => return episode.unreadable(&error, "the endpoints known so far stay in use"),
        };
        match read.unreadable.first() {
            Some(error) => episode.unreadable(error, "the endpoint is not used"),
            None => episode.readable(),
        }
        apply(&mut set, read.update, heard.first);
        publish(sender, set.clone());
    })
    .await;
    tracing::info!(%path, code = ?status.code(), message = status.message(), "the control plane knows no such destination");
    publish(sender, EndpointSet::default());
}

/// Applies a change. The first `Add` of a stream says all there is: what a stream before it told may be gone.
pub(super) fn apply(set: &mut EndpointSet, update: EndpointUpdate, first: bool) {
    match update {
        EndpointUpdate::Add { set_labels, endpoints } => {
            let mut before = std::mem::take(&mut set.endpoints);
            let mut after = BTreeMap::new();
            for endpoint in endpoints.into_iter().take(MAX_ENDPOINTS) {
                let endpoint = with_labels(endpoint, &set_labels);
                let kept = before.remove(&endpoint.addr).filter(|known| **known == endpoint);
                after.insert(endpoint.addr, kept.unwrap_or_else(|| Arc::new(endpoint)));
            }
            if !first {
                let room = MAX_ENDPOINTS.saturating_sub(after.len());
                after.extend(before.into_iter().take(room));
            }
            *set = EndpointSet { exists: true, endpoints: after };
        }
        EndpointUpdate::Remove(addrs) => {
            for addr in addrs {
                set.endpoints.remove(&addr);
            }
        }
        EndpointUpdate::NoEndpoints { exists } => *set = EndpointSet { exists, endpoints: BTreeMap::new() },
    }
}

/// Adds the labels of the set; the endpoint's own win.
fn with_labels(mut endpoint: Endpoint, set: &Arc<BTreeMap<String, String>>) -> Endpoint {
    if endpoint.labels.is_empty() {
        endpoint.labels = set.clone();
    } else if !set.is_empty() {
        let mut labels = (**set).clone();
        labels.extend(endpoint.labels.iter().map(|(k, v)| (k.clone(), v.clone())));
        endpoint.labels = Arc::new(labels);
    }
    endpoint
}
