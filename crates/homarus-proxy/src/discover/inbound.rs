//! The policy of one port of the workload: `InboundServerPolicies.WatchPort`.

use super::{
    Inner, MAX_MESSAGE_BYTES,
    cache::{Sender, publish},
    episode::Episode,
    follow::{Heard, follow},
};
use crate::net;
use homarus_model::{
    Meta,
    inbound::{Authorization, Protocol, RoutePolicy, ServerPolicy},
    route::HttpRoute,
};
use homarus_wire::{
    WORKLOAD_OVER,
    api::inbound::{PortSpec, Server, inbound_server_policies_client::InboundServerPoliciesClient},
    decode,
};
use std::{sync::Arc, time::Duration};
use tonic::Code;

/// How long the first connections of a port wait for its policy, unless the environment says otherwise (design §7).
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How old a proxy is before it believes that its workload has ended. To a control plane whose view is behind, a new pod may
/// look like the one that had its name before; a proxy that ended for that would take the pod with it.
pub(super) const TRUST_OVER_AFTER: Duration = Duration::from_secs(10);

/// Keeps the policy of a port up to date.
pub(super) async fn ask(inner: &Inner, port: u16, sender: &Sender<ServerPolicy>) {
    let late = async {
        // Without a certificate nobody can ask, and nobody is let in either.
        inner.policy.introduced().await;
        net::sleep(inner.inbound_default.initial_timeout).await;
        if use_default(inner, port, sender) {
            let default = inner.inbound_default.default.as_str();
            if inner.inbound_default.initial_timeout.is_zero() {
                tracing::debug!(port, default, "the default applies until the policy of the port comes");
                return;
            }
            tracing::warn!(port, default, "no policy of the port came in time; the default applies until it does");
        }
    };
    tokio::join!(watch(inner, port, sender), late);
}

/// Applies the environment's default unless there is a policy already.
fn use_default(inner: &Inner, port: u16, sender: &Sender<ServerPolicy>) -> bool {
    if sender.borrow().is_some() {
        return false;
    }
    inner.episodes.fallback();
    publish(sender, inner.inbound_default.initial(port));
    true
}

async fn watch(inner: &Inner, port: u16, sender: &Sender<ServerPolicy>) {
    let mut episode = inner.episodes.of("WatchPort", port.to_string());
    let open = |channel| async move {
        let mut client = InboundServerPoliciesClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        client.watch_port(PortSpec { workload: inner.target.workload.clone(), port: port.into() }).await
    };
    let codes = &[Code::InvalidArgument, Code::FailedPrecondition, Code::Aborted];
    let mut aborted = 0;
    let status = loop {
        let mut answered = false;
        let on = |episode: &mut Episode, heard: Heard<_>| {
            answered = true;
            publish(sender, read(episode, heard));
        };
        let status = follow(&inner.policy, &mut episode, codes, open, on).await;
        if status.code() != Code::Aborted {
            break status;
        }
        if status.message() == WORKLOAD_OVER && net::now().duration_since(inner.started) >= TRUST_OVER_AFTER {
            inner.over.notify_one();
        } else {
            episode.failed(&status);
        }
        aborted = if answered { 0 } else { aborted };
        net::sleep(inner.policy.backoff(aborted)).await;
        aborted = aborted.saturating_add(1);
    };
    tracing::warn!(port, code = ?status.code(), message = status.message(), "the control plane won't tell the port's policy");
    use_default(inner, port, sender);
}

/// The policy that was told, or the one that lets nobody in.
fn read(episode: &mut Episode, heard: Heard<Server>) -> ServerPolicy {
    match decode::server_policy(heard.message) {
        Ok(policy) => {
            episode.readable();
            with_localhost(policy)
        }
        Err(error) => {
            episode.unreadable(&error, "nobody may connect to the port");
            invalid()
        }
    }
}

/// Each answer is all there is, but for the machine itself, which may always (proxy-traffic §6.1).
fn with_localhost(mut policy: ServerPolicy) -> ServerPolicy {
    policy.authorizations = policy.authorizations.iter().cloned().chain([Authorization::localhost()]).collect();
    policy
}

/// What a policy that can't be read becomes: nobody may.
pub(super) fn invalid() -> ServerPolicy {
    let routes: Arc<[_]> = [HttpRoute::catch_all(RoutePolicy::default_route())].into();
    let protocol = Protocol::Detect { timeout: homarus_model::inbound::DETECT_TIMEOUT, routes };
    ServerPolicy { server: Meta::default_named("invalid"), protocol, authorizations: Arc::new([]) }
}
