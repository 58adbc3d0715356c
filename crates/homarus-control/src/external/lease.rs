//! Leadership by a Lease, compatible with client-go's leader election (control-plane §1.8).
//!
//! A holder that doesn't renew within the lease's duration, as measured by the one who waits and not by anybody's written
//! clock, has lost it. Losing it ends the work at once; the end of the program gives it up, so that the next one needn't wait.

use homarus_daemon::drain::Drain;
use k8s_openapi::{
    api::coordination::v1::{Lease as LeaseObject, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long a lease holds without renewal.
const DURATION: Duration = Duration::from_secs(30);
/// How long renewing may fail before the work ends.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is tried.
const RETRY: Duration = Duration::from_secs(2);

pub(crate) struct Lease {
    api: Api<LeaseObject>,
    name: &'static str,
    namespace: String,
    identity: String,
    /// What another holder wrote last, and when that was seen.
    observed: Option<(Option<LeaseSpec>, Instant)>,
}

impl Lease {
    pub(crate) fn new(client: Client, namespace: &str, name: &'static str) -> Self {
        // Kubernetes gives every pod its name as its host's; it is unique among its kind.
        let identity = std::env::var("HOSTNAME").unwrap_or_else(|_| format!("pid-{}", std::process::id()));
        Self { api: Api::namespaced(client, namespace), name, namespace: namespace.into(), identity, observed: None }
    }

    /// Does the work for as long as this process holds the lease.
    pub(crate) async fn lead<F: Future<Output = ()>>(mut self, mut drain: Drain, work: impl Fn() -> F) {
        while !drain.is_signaled() {
            if !self.acquire().await {
                tokio::select! {
                    () = drain.signaled() => return,
                    () = tokio::time::sleep(RETRY) => continue,
                }
            }
            info!(lease = self.name, identity = %self.identity, "leading");
            tokio::select! {
                () = drain.signaled() => self.release().await,
                () = self.renew() => warn!(lease = self.name, "the lease is lost"),
                () = work() => {}
            }
        }
    }

    /// Renews until that fails for too long.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_DEADLINE {
            tokio::time::sleep(RETRY).await;
            if self.acquire().await {
                renewed = Instant::now();
            }
        }
    }

    /// Takes the lease or renews it, if nobody else holds it.
    async fn acquire(&mut self) -> bool {
        match tokio::time::timeout(RENEW_DEADLINE, self.try_acquire()).await {
            Ok(Ok(held)) => held,
            // Somebody else was faster.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => false,
            Ok(Err(error)) => {
                warn!(lease = self.name, %error, "failed to take the lease; check the controller's Role");
                false
            }
            Err(_) => false,
        }
    }

    async fn try_acquire(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(self.name).await? else {
            let metadata =
                ObjectMeta { name: Some(self.name.into()), namespace: Some(self.namespace.clone()), ..ObjectMeta::default() };
            let spec = LeaseSpec { lease_transitions: Some(0), acquire_time: Some(now.clone()), ..self.spec(now) };
            self.api.create(&PostParams::default(), &LeaseObject { metadata, spec: Some(spec) }).await?;
            return Ok(true);
        };
        let old = lease.spec.clone().unwrap_or_default();
        let holder = old.holder_identity.clone().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity && !self.has_expired(&lease) {
            return Ok(false);
        }
        let taken = holder != self.identity;
        lease.spec = Some(LeaseSpec {
            acquire_time: if taken { Some(now.clone()) } else { old.acquire_time },
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(taken)),
            ..self.spec(now)
        });
        // With its resourceVersion: two can't take it at once.
        self.api.replace(self.name, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    fn spec(&self, now: MicroTime) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    /// Whether another's lease was seen unchanged for as long as it holds.
    fn has_expired(&mut self, lease: &LeaseObject) -> bool {
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
        let holds = seconds.map_or(DURATION, Duration::from_secs);
        match &self.observed {
            Some((seen, since)) if *seen == lease.spec => since.elapsed() > holds,
            _ => {
                self.observed = Some((lease.spec.clone(), Instant::now()));
                false
            }
        }
    }

    async fn release(&self) {
        if let Ok(Err(error)) = tokio::time::timeout(RETRY, self.try_release()).await {
            warn!(lease = self.name, %error, "failed to give up the lease; the next leader waits until it ends");
        }
    }

    async fn try_release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(self.name).await? else { return Ok(()) };
        if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity)) {
            spec.holder_identity = Some(String::new());
            self.api.replace(self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}
