//! The client: so many requests a second whatever becomes of them, every other a POST; at the end, a report as JSON.
//!
//! Its connections are those of a usual client: HTTP/1.1 connections are kept and used again, HTTP/2 is one connection; a
//! request whose connection turned out closed before it was written is sent on another.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};

use super::journal::Journal;
use super::{JOURNAL, NUMBER};
use crate::serving::Stop;

/// The most requests a second that may be asked for.
pub const MAX_RATE: u32 = 10_000;
/// Requests under way at once; past it, one fails without being sent.
const MAX_IN_FLIGHT: usize = 4_000;
/// The largest answer that is read.
const MAX_ANSWER: usize = 1 << 16;
/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Failures that are reported one by one; all are counted.
const MAX_TOLD: usize = 200;
/// After the last answer, how long a server's word of a request may be under way.
const LAST_WORD: Duration = Duration::from_millis(500);
const BODY: Bytes = Bytes::from_static(b"what a steady client has to say");

/// Whom to ask, and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to ask for.
    pub url: http::Uri,
    /// Requests a second, at most [`MAX_RATE`].
    pub rate: u32,
    /// How long, from the first answer on.
    pub lasts: Duration,
    /// HTTP/2 from the first byte, else HTTP/1.1.
    pub http2: bool,
    /// Where servers reach this client.
    pub address: IpAddr,
}

/// What became of all requests.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    sent: u64,
    failed: u64,
    /// Requests that servers have begun more than once, and those of them that aren't idempotent.
    begun_twice: u64,
    posts_begun_twice: u64,
    slowest_ms: u64,
    reasons: BTreeMap<String, u64>,
    failures: Vec<Failure>,
}

/// A request that got no good answer.
#[derive(Clone, Debug, Serialize)]
struct Failure {
    number: u64,
    method: String,
    /// Since the first request.
    at_ms: u64,
    why: String,
    /// How often a server has begun it: never means that it could have been sent again.
    begun: u32,
}

struct Load {
    client: Client<HttpConnector, Full<Bytes>>,
    plan: Plan,
    journal: HeaderValue,
    began: Instant,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    failures: Vec<Failure>,
    slowest: Duration,
}

/// A client whose first request was answered.
pub struct Begun {
    load: Load,
    journal: Journal,
}

/// Asks until somebody answers: what nobody serves yet isn't measured.
pub async fn begin(plan: Plan, stop: Stop) -> anyhow::Result<Begun> {
    let (journal, port) = Journal::listen().await?;
    let at = HeaderValue::from_str(&SocketAddr::new(plan.address, port).to_string())?;
    let client = Client::builder(TokioExecutor::new()).http2_only(plan.http2).build_http();
    let load = Load { client, journal: at, began: Instant::now(), seen: Mutex::default(), plan };
    let mut stop = std::pin::pin!(stop.asked());
    while let Err(why) = load.ask(u64::MAX).await {
        tracing::info!(why, "nobody answers yet");
        tokio::select! {
            () = &mut stop => anyhow::bail!("ended before anybody answered: {why}"),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
    Ok(Begun { load: Load { began: Instant::now(), ..load }, journal })
}

impl Begun {
    /// Asks until the time is over, or `stop`.
    pub async fn run(self, stop: Stop) -> Report {
        let load = Arc::new(self.load);
        let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / load.plan.rate.clamp(1, MAX_RATE));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut stop = std::pin::pin!(stop.asked());
        let mut sent = 0;
        while load.began.elapsed() < load.plan.lasts {
            tokio::select! {
                () = &mut stop => break,
                _ = ticks.tick() => {}
            }
            let number = sent;
            sent += 1;
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                load.failed(number, "not sent: too many requests unanswered".into());
                continue;
            };
            let load = load.clone();
            tokio::spawn(async move {
                load.one(number).await;
                drop(slot);
            });
        }
        // Requests are bounded in time, so this is, too.
        let _ = slots.acquire_many(MAX_IN_FLIGHT as u32).await;
        tokio::time::sleep(LAST_WORD).await;
        load.report(sent, &self.journal)
    }
}

impl Load {
    async fn one(&self, number: u64) {
        let begun = Instant::now();
        if let Err(why) = self.ask(number).await {
            self.failed(number, why);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.slowest = seen.slowest.max(begun.elapsed());
    }

    fn failed(&self, number: u64, why: String) {
        let at_ms = self.began.elapsed().as_millis() as u64;
        tracing::warn!(number, why, "failed");
        let failure = Failure { number, method: method(number).to_string(), at_ms, why, begun: 0 };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).failures.push(failure);
    }

    async fn ask(&self, number: u64) -> Result<(), String> {
        let method = method(number);
        let body = if method == Method::POST { Full::new(BODY) } else { Full::default() };
        let request = Request::builder().method(method).uri(self.plan.url.clone());
        let request = request.header(NUMBER, number).header(JOURNAL, self.journal.clone());
        let request = request.body(body).map_err(|error| error.to_string())?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| chain(&error))?;
            let status = response.status();
            let told = response.headers().get("l5d-proxy-error").and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            body.map_err(|error| format!("the answer broke off: {}", chain(&*error)))?;
            if status.is_success() { Ok(()) } else { Err(format!("{status} {told}").trim().to_owned()) }
        };
        tokio::time::timeout(REQUEST_LIMIT, answer).await.unwrap_or_else(|_| Err(format!("no answer within {REQUEST_LIMIT:?}")))
    }

    fn report(&self, sent: u64, journal: &Journal) -> Report {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let twice = |number: &u64| journal.times(*number) > 1;
        let mut report = Report {
            sent,
            failed: seen.failures.len() as u64,
            begun_twice: (0..sent).filter(twice).count() as u64,
            posts_begun_twice: (0..sent).filter(|number| method(*number) == Method::POST).filter(twice).count() as u64,
            slowest_ms: seen.slowest.as_millis() as u64,
            ..Report::default()
        };
        for failure in &seen.failures {
            let failure = Failure { begun: journal.times(failure.number), ..failure.clone() };
            let begun = if failure.begun == 0 { "never begun" } else { "begun" };
            *report.reasons.entry(format!("{}, {begun}: {}", failure.method, failure.why)).or_default() += 1;
            if report.failures.len() < MAX_TOLD {
                report.failures.push(failure);
            }
        }
        report
    }
}

fn method(number: u64) -> Method {
    if number.is_multiple_of(2) { Method::GET } else { Method::POST }
}

/// An error with its causes: the outermost says only that something failed.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
