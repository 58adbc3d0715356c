//! The bot that votes. It has a sweet tooth: about 15 % of its votes go to the doughnut.
//!
//! A vote is two requests, the list and the vote. What fails is logged and forgotten: the next vote is independent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rand::Rng;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};

use super::catalog::DOUGHNUT;
use crate::serving::Stop;

/// The share of votes for the doughnut.
pub const DOUGHNUT_SHARE: f64 = 0.15;
/// The most votes a second that may be asked for.
pub const MAX_RATE: u32 = 10_000;

/// Votes under way at once; past it, votes are skipped.
const MAX_IN_FLIGHT: usize = 256;
/// The largest answer that is read.
const MAX_ANSWER: usize = 1 << 20;
/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Whom to vote at, and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the web page is, a `name:port`.
    pub web_host: String,
    /// The `Host` header, where it differs from the address.
    pub host_override: Option<String>,
    /// Votes a second, at most [`MAX_RATE`].
    pub rate: u32,
    /// When to end by itself, if at all.
    pub ttl: Option<Duration>,
}

/// Why the bot could not vote, this time.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error("the request can't be made: {0}; is WEB_HOST a name and a port?")]
    Malformed(#[from] http::Error),
    #[error("no answer: {0:#}")]
    Unanswered(#[from] hyper_util::client::legacy::Error),
    #[error("no answer within {REQUEST_LIMIT:?}")]
    Late,
    #[error("the answer broke off: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    #[error("answered {status}: {said}")]
    Refused { status: http::StatusCode, said: String },
    #[error("the list can't be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the list is empty")]
    NobodyToVoteFor,
}

#[derive(Debug, Deserialize)]
struct Listed {
    shortcode: String,
}

/// Votes until `stop`, or until its time is over; then waits for the votes under way.
pub async fn run(plan: Plan, stop: Stop) {
    let bot =
        Arc::new(Bot { client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(MAX_IN_FLIGHT).build_http(), plan });
    let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut ticks = tokio::time::interval(bot.plan.period());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = bot.plan.ttl.and_then(|ttl| Instant::now().checked_add(ttl));
    let over = async {
        match end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    let asked = stop.asked();
    tokio::pin!(over, asked);
    loop {
        tokio::select! {
            () = &mut asked => break,
            () = &mut over => break,
            _ = ticks.tick() => {}
        }
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            tracing::warn!(in_flight = MAX_IN_FLIGHT, "too many votes unanswered, skipping one");
            continue;
        };
        let bot = bot.clone();
        tokio::spawn(async move {
            if let Err(missed) = bot.vote().await {
                tracing::error!(error = %missed, "cannot vote");
            }
            drop(slot);
        });
    }
    // All slots free: nothing is under way. Requests are bounded in time, so this is, too.
    let _ = slots.acquire_many(MAX_IN_FLIGHT as u32).await;
}

impl Plan {
    /// The time between two votes.
    pub fn period(&self) -> Duration {
        Duration::from_secs(1) / self.rate.clamp(1, MAX_RATE)
    }
}

struct Bot {
    client: Client<HttpConnector, Empty<Bytes>>,
    plan: Plan,
}

impl Bot {
    async fn vote(&self) -> Result<(), Missed> {
        let listed = self.ask("/api/list").await?;
        let listed: Vec<Listed> = serde_json::from_slice(&listed)?;
        let choice = choose(&mut rand::rng(), &listed).ok_or(Missed::NobodyToVoteFor)?;
        tracing::info!(emoji = choice, "voting");
        self.ask(&format!("/api/vote?choice={choice}")).await?;
        Ok(())
    }

    async fn ask(&self, path: &str) -> Result<Bytes, Missed> {
        let mut request = http::Request::get(format!("http://{}{path}", self.plan.web_host)).body(Empty::new())?;
        if let Some(host) = &self.plan.host_override {
            let host = http::HeaderValue::from_str(host).map_err(http::Error::from)?;
            request.headers_mut().insert(http::header::HOST, host);
        }
        let answer = async {
            let response = self.client.request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER);
            let body = body.collect().await.map_err(Missed::Broken)?.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            let said = String::from_utf8_lossy(&body).trim().to_owned();
            Err(Missed::Refused { status, said })
        };
        tokio::time::timeout(REQUEST_LIMIT, answer).await.map_err(|_| Missed::Late)?
    }
}

/// The doughnut in [`DOUGHNUT_SHARE`] of all cases, else any of the list.
fn choose<'l>(rng: &mut impl Rng, listed: &'l [Listed]) -> Option<&'l str> {
    if listed.is_empty() {
        return None;
    }
    if rng.random_bool(DOUGHNUT_SHARE) {
        return Some(DOUGHNUT);
    }
    let any = rng.random_range(0..listed.len());
    listed.get(any).map(|emoji| emoji.shortcode.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn listed(shortcodes: &[&str]) -> Vec<Listed> {
        let named = |name: &&str| Listed { shortcode: (*name).to_owned() };
        shortcodes.iter().map(named).collect()
    }

    #[test]
    fn about_every_seventh_vote_is_for_the_doughnut() {
        let mut rng = StdRng::seed_from_u64(7);
        let listed = listed(&[":ghost:", ":taco:"]);
        let votes = (0..10_000).map(|_| choose(&mut rng, &listed).unwrap());
        let doughnuts = votes.filter(|vote| *vote == DOUGHNUT).count();
        assert!((1_300..1_700).contains(&doughnuts), "{doughnuts}");
    }

    #[test]
    fn an_empty_list_has_nobody_to_vote_for() {
        assert_eq!(choose(&mut StdRng::seed_from_u64(7), &[]), None);
    }

    #[test]
    fn the_rate_is_bounded_both_ways() {
        let plan = |rate| Plan { web_host: String::new(), host_override: None, rate, ttl: None };
        assert_eq!(plan(0).period(), Duration::from_secs(1));
        assert_eq!(plan(4).period(), Duration::from_millis(250));
        assert_eq!(plan(u32::MAX).period(), Duration::from_micros(100));
    }
}
