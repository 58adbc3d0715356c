//! Where connections to one address go: `OutboundPolicies.Watch` and `Destination.GetProfile`, together.

use super::{Inner, MAX_MESSAGE_BYTES, Outbound, cache::Sender, cache::publish, follow::follow};
use homarus_model::{endpoint::Endpoint, outbound::ClientPolicy, profile::Profile};
use homarus_wire::{
    api::{
        destination::{GetDestination, destination_client::DestinationClient},
        outbound::{TrafficSpec, outbound_policies_client::OutboundPoliciesClient, traffic_spec},
    },
    decode::{self, DecodeError},
};
use std::{net::SocketAddr, sync::Arc};
use tonic::{Code, Status};

/// What is known of a profile.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ProfileAnswer {
    /// Asked, not answered.
    Pending,
    /// There is none, or none is asked for.
    None,
    /// This one.
    Known(Arc<Profile>),
    /// One that can't be read.
    Unreadable(Arc<str>),
}

/// What is known of a policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PolicyAnswer {
    /// Asked, not answered.
    Pending,
    /// This one.
    Known(Arc<ClientPolicy>),
    /// The control plane has none for this address.
    Unknown,
    /// The control plane refuses the question.
    Refused(Arc<str>),
    /// One that can't be read.
    Unreadable(Arc<str>),
}

#[derive(Debug)]
struct Answers {
    profile: ProfileAnswer,
    policy: PolicyAnswer,
}

/// Keeps what is known of an address up to date.
pub(super) async fn ask(inner: &Inner, addr: SocketAddr, sender: &Sender<Outbound>) {
    let wants_profile = inner.target.profile_networks.iter().any(|net| net.contains(&addr.ip()));
    let profile = if wants_profile { ProfileAnswer::Pending } else { ProfileAnswer::None };
    let answers = std::sync::Mutex::new(Answers { profile, policy: PolicyAnswer::Pending });
    let tell = |change: &dyn Fn(&mut Answers)| {
        let mut answers = answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut answers);
        if let Some(outbound) = merge(addr, &answers.profile, &answers.policy) {
            publish(sender, outbound);
        }
    };
    let tell_profile = |answer: ProfileAnswer| tell(&|a| a.profile = answer.clone());
    let tell_policy = |answer: PolicyAnswer| tell(&|a| a.policy = answer.clone());
    let profile = async {
        if wants_profile {
            watch_profile(inner, addr, &tell_profile).await;
        }
    };
    tokio::join!(profile, watch_policy(inner, addr, &tell_policy));
}

/// The table of proxy-wire §7.1; none until both have answered.
pub(super) fn merge(addr: SocketAddr, profile: &ProfileAnswer, policy: &PolicyAnswer) -> Option<Outbound> {
    let known = match profile {
        ProfileAnswer::Pending => return None,
        ProfileAnswer::Known(profile) => Some(profile.clone()),
        ProfileAnswer::None | ProfileAnswer::Unreadable(_) => None,
    };
    let opaque = known.as_ref().is_some_and(|profile| profile.opaque_protocol);
    let invalid = |why: &Arc<str>| Outbound::Invalid { why: why.clone(), opaque };
    let policy = match (policy, profile) {
        (PolicyAnswer::Pending, _) => return None,
        (PolicyAnswer::Refused(why), _) => return Some(Outbound::Refused(why.clone())),
        (PolicyAnswer::Unreadable(why), _) => return Some(invalid(why)),
        (PolicyAnswer::Known(policy), _) => policy.clone(),
        // The endpoint's identity may stand in what can't be read: going on would mean to go on without TLS.
        (PolicyAnswer::Unknown, ProfileAnswer::Unreadable(why)) => return Some(invalid(why)),
        (PolicyAnswer::Unknown, _) => {
            let endpoint = known.as_ref().and_then(|p| p.endpoint.clone());
            Arc::new(match endpoint {
                Some(endpoint) => ClientPolicy::forward("endpoint", endpoint),
                None => ClientPolicy::forward("fallback", Endpoint::plain(addr)),
            })
        }
    };
    Some(Outbound::Policy { policy, profile: known })
}

async fn watch_profile(inner: &Inner, addr: SocketAddr, tell: &(dyn Fn(ProfileAnswer) + Sync)) {
    let mut episode = inner.episodes.of("GetProfile", addr.to_string());
    let open = |channel| async move {
        let mut client = DestinationClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let context_token = inner.target.context_token.clone();
        client.get_profile(GetDestination { scheme: String::new(), path: addr.to_string(), context_token }).await
    };
    let mut known = false;
    let codes = &[Code::InvalidArgument, Code::FailedPrecondition];
    follow(&inner.destination, &mut episode, codes, open, |episode, heard| match decode::profile(heard.message) {
        Ok(profile) => {
            episode.readable();
            known = true;
            tell(ProfileAnswer::Known(Arc::new(profile)));
        }
        Err(error) if known => episode.unreadable(&error, "the profile known so far stays in use"),
        Err(error) => {
            episode.unreadable(&error, "connections that depend on the profile are refused");
            tell(ProfileAnswer::Unreadable(unreadable("profile", addr, &error)));
        }
    })
    .await;
    tell(ProfileAnswer::None);
}

async fn watch_policy(inner: &Inner, addr: SocketAddr, tell: &(dyn Fn(PolicyAnswer) + Sync)) {
    let mut episode = inner.episodes.of("Watch", addr.to_string());
    let open = |channel| async move {
        let mut client = OutboundPoliciesClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let target = Some(traffic_spec::Target::Addr(addr.into()));
        client.watch(TrafficSpec { source_workload: inner.target.workload.clone(), target }).await
    };
    let codes = &[Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound, Code::Unimplemented];
    let status = follow(&inner.policy, &mut episode, codes, open, |episode, heard| match decode::client_policy(heard.message) {
        Ok(policy) => {
            episode.readable();
            tell(PolicyAnswer::Known(Arc::new(policy)));
        }
        Err(error) => {
            episode.unreadable(&error, "connections to the destination are refused");
            tell(PolicyAnswer::Unreadable(unreadable("policy", addr, &error)));
        }
    })
    .await;
    tell(match status.code() {
        Code::NotFound | Code::Unimplemented => PolicyAnswer::Unknown,
        _ => PolicyAnswer::Refused(refusal(addr, &status)),
    });
}

/// What the application is told, who can't do anything about it but ask somebody who can.
fn unreadable(what: &str, addr: SocketAddr, error: &DecodeError) -> Arc<str> {
    format!("unreadable {what} of {addr}: {error}; look at the Service and the routes there, and at the control plane's version")
        .into()
}

fn refusal(addr: SocketAddr, status: &Status) -> Arc<str> {
    format!("the policy controller refuses {addr}: {:?}: {}", status.code(), status.message()).into()
}
