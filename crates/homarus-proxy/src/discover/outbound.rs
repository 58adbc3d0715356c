//! Where connections to one address go, or requests to one name: `OutboundPolicies.Watch` and `Destination.GetProfile`,
//! together.
//!
//! An address that the control plane has no policy for is forwarded to as it is. A name leads where the control plane says or
//! nowhere: it is not resolved, so whoever may choose names reaches Services and nothing else. Since names are written by
//! people, often before the Service is there, a name that is not known is asked about again.

use super::{Inner, MAX_MESSAGE_BYTES, Outbound, Target, cache::Sender, cache::publish, follow::follow};
use crate::{config::Backoff, net};
use homarus_model::{
    Authority, Meta,
    endpoint::Endpoint,
    name::Host,
    outbound::{Backend, ClientPolicy, Dispatcher, Ewma},
    profile::Profile,
};
use homarus_wire::{
    api::{
        destination::{GetDestination, destination_client::DestinationClient},
        outbound::{TrafficSpec, outbound_policies_client::OutboundPoliciesClient, traffic_spec},
    },
    decode::{self, DecodeError},
};
use std::{sync::Arc, time::Duration};
use tonic::{Code, Status};

/// How often a name that is not known is asked about, while somebody wants it.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often a name is asked about that the control plane refuses to speak of. The back-off of connections is too short: it
/// is for a control plane that will be back, not for one that has answered.
const ASK_SELDOM: Backoff = Backoff { min: ASK_AGAIN, max: Duration::from_secs(30), jitter: 0.5 };

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
    /// The control plane has none for this address or name.
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

impl Target {
    /// Whether the operator wants profiles of it.
    fn wants_profile(&self, dialed: &Authority) -> bool {
        match &dialed.host {
            Host::Ip(ip) => self.profile_networks.iter().any(|net| net.contains(ip)),
            Host::Name(name) => self.profile_suffixes.iter().any(|suffix| suffix.is_empty() || name.is_within(suffix)),
        }
    }
}

/// Keeps what is known of an address or name up to date.
pub(super) async fn ask(inner: &Inner, dialed: &Authority, sender: &Sender<Outbound>) {
    let wants_profile = inner.target.wants_profile(dialed);
    let profile = if wants_profile { ProfileAnswer::Pending } else { ProfileAnswer::None };
    let answers = std::sync::Mutex::new(Answers { profile, policy: PolicyAnswer::Pending });
    let tell = |change: &dyn Fn(&mut Answers)| {
        let mut answers = answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut answers);
        if let Some(outbound) = merge(dialed, &answers.profile, &answers.policy) {
            publish(sender, outbound);
        }
    };
    let tell_profile = |answer: ProfileAnswer| tell(&|a| a.profile = answer.clone());
    let tell_policy = |answer: PolicyAnswer| tell(&|a| a.policy = answer.clone());
    let profile = async {
        if wants_profile {
            let (mut known, mut refusals) = (false, 0);
            while let Some(pause) = pause(watch_profile(inner, dialed, &mut known, &tell_profile).await, &mut refusals) {
                net::sleep(pause).await;
            }
        }
    };
    let policy = async {
        let mut refusals = 0;
        while let Some(pause) = pause(watch_policy(inner, dialed, &tell_policy).await, &mut refusals) {
            net::sleep(pause).await;
        }
    };
    tokio::join!(profile, policy);
}

/// Whether an answer is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// It is: asking again won't change it.
    Done,
    /// What isn't known yet may come to be.
    Again,
    /// The question was refused: another control plane may take it.
    Seldom,
}

impl Asking {
    pub(super) fn after(dialed: &Authority, code: Code) -> Self {
        match code {
            _ if dialed.dns_name().is_none() => Self::Done,
            Code::NotFound | Code::Unknown => Self::Again,
            _ => Self::Seldom,
        }
    }
}

/// How long to wait before asking again; none: never.
pub(super) fn pause(asking: Asking, refusals: &mut u32) -> Option<Duration> {
    match asking {
        Asking::Done => None,
        Asking::Again => {
            *refusals = 0;
            Some(ASK_AGAIN)
        }
        Asking::Seldom => {
            *refusals = refusals.saturating_add(1);
            Some(ASK_SELDOM.delay(*refusals, rand::random()))
        }
    }
}

/// The table of proxy-wire §7.1, and for names §7.4; none until both have answered.
pub(super) fn merge(dialed: &Authority, profile: &ProfileAnswer, policy: &PolicyAnswer) -> Option<Outbound> {
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
            let profile = known.as_deref();
            match (profile.and_then(|p| p.endpoint.clone()), dialed.socket_addr()) {
                (Some(endpoint), _) => Arc::new(ClientPolicy::forward("endpoint", endpoint)),
                (None, Some(addr)) => Arc::new(ClientPolicy::forward("fallback", Endpoint::plain(addr))),
                (None, None) => match profile.and_then(|profile| balanced(profile, dialed.port)) {
                    Some(policy) => Arc::new(policy),
                    None => return Some(Outbound::Refused(unknown(dialed))),
                },
            }
        }
    };
    Some(Outbound::Policy { policy, profile: known })
}

/// What applies to a Service that has a profile and no policy.
fn balanced(profile: &Profile, port: u16) -> Option<ClientPolicy> {
    let fqn = profile.fqn.as_ref()?;
    let meta = Arc::new(profile.parent.clone().unwrap_or_else(|| Meta::default_named("profile")));
    let dispatcher = Dispatcher::Balance { path: format!("{fqn}:{port}").into(), ewma: Ewma::default() };
    let backend = Backend { meta: meta.clone(), dispatcher };
    Some(ClientPolicy::to_backend(meta, Arc::new(Meta::default_named("profile")), backend))
}

fn unknown(dialed: &Authority) -> Arc<str> {
    format!("the control plane knows no Service {dialed}; names are <service>.<namespace>.svc.<cluster domain>[:<port>]").into()
}

/// Follows the profile; `known` says whether one was told, now or before.
async fn watch_profile(inner: &Inner, dialed: &Authority, known: &mut bool, tell: &(dyn Fn(ProfileAnswer) + Sync)) -> Asking {
    let path = &dialed.to_string();
    let mut episode = inner.episodes.of("GetProfile", path);
    let open = |channel| async move {
        let mut client = DestinationClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let context_token = inner.target.context_token.clone();
        client.get_profile(GetDestination { scheme: String::new(), path: path.clone(), context_token }).await
    };
    // A name that no Service has is no answer for ever, but one for now. Upstream's controller says so with `Unknown`.
    let codes: &[Code] = match dialed.dns_name() {
        None => &[Code::InvalidArgument, Code::FailedPrecondition],
        Some(_) => &[Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound, Code::Unknown],
    };
    let status = follow(&inner.destination, &mut episode, codes, open, |episode, heard| match decode::profile(heard.message) {
        Ok(profile) => {
            episode.readable();
            *known = true;
            tell(ProfileAnswer::Known(Arc::new(profile)));
        }
        Err(error) if *known => episode.unreadable(&error, "the profile known so far stays in use"),
        Err(error) => {
            episode.unreadable(&error, "connections that depend on the profile are refused");
            tell(ProfileAnswer::Unreadable(unreadable("profile", dialed, &error)));
        }
    })
    .await;
    // What was known stays if it was the connection that failed, and however often it fails.
    if !*known || status.code() != Code::Unknown {
        *known = false;
        tell(ProfileAnswer::None);
    }
    Asking::after(dialed, status.code())
}

async fn watch_policy(inner: &Inner, dialed: &Authority, tell: &(dyn Fn(PolicyAnswer) + Sync)) -> Asking {
    let mut episode = inner.episodes.of("Watch", dialed.to_string());
    let open = |channel| async move {
        let mut client = OutboundPoliciesClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let target = match dialed.socket_addr() {
            Some(addr) => traffic_spec::Target::Addr(addr.into()),
            None => traffic_spec::Target::Authority(dialed.to_string()),
        };
        client.watch(TrafficSpec { source_workload: inner.target.workload.clone(), target: Some(target) }).await
    };
    let codes = &[Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound, Code::Unimplemented];
    let status = follow(&inner.policy, &mut episode, codes, open, |episode, heard| match decode::client_policy(heard.message) {
        Ok(policy) => {
            episode.readable();
            tell(PolicyAnswer::Known(Arc::new(policy)));
        }
        Err(error) => {
            episode.unreadable(&error, "connections to the destination are refused");
            tell(PolicyAnswer::Unreadable(unreadable("policy", dialed, &error)));
        }
    })
    .await;
    tell(match status.code() {
        Code::NotFound | Code::Unimplemented => PolicyAnswer::Unknown,
        _ => PolicyAnswer::Refused(refusal(dialed, &status)),
    });
    Asking::after(dialed, status.code())
}

/// What the application is told, who can't do anything about it but ask somebody who can.
fn unreadable(what: &str, dialed: &Authority, error: &DecodeError) -> Arc<str> {
    format!("unreadable {what} of {dialed}: {error}; look at the Service and the routes there, and at the control plane's version")
        .into()
}

fn refusal(dialed: &Authority, status: &Status) -> Arc<str> {
    format!("the policy controller refuses {dialed}: {:?}: {}", status.code(), status.message()).into()
}
