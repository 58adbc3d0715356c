//! The service that counts votes, and fails on purpose for one emoji.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tower::Service;

use super::catalog::{DOUGHNUT, EMOJI};
use super::proto::{
    RESULTS, ResultsRequest, ResultsResponse, VOTING_SERVICE, VoteRequest, VoteResponse, VotingResult, vote_method,
};
use super::rpc::{self, Answer, HttpRequest};
use super::scrape::{Counters, UNKNOWN_METHOD};

/// How the service misbehaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// The share of votes for the doughnut that fail, 0 to 1.
    pub failure_rate: f64,
    /// How long every vote takes.
    pub delay: Duration,
}

impl Default for Faults {
    /// Every vote for the doughnut fails, all others are counted at once.
    fn default() -> Self {
        Faults { failure_rate: 1.0, delay: Duration::ZERO }
    }
}

/// The votes so far. Bounded by the catalog.
#[derive(Debug, Default)]
pub struct Ballot(BTreeMap<&'static str, u32>);

impl Ballot {
    /// Counts one vote, and says how many there are now.
    pub fn vote(&mut self, shortcode: &'static str) -> u32 {
        let votes = self.0.entry(shortcode).or_default();
        *votes = votes.saturating_add(1);
        *votes
    }

    /// The emoji that have votes, the leader first, equals by name.
    pub fn leaders(&self) -> Vec<VotingResult> {
        let mut leaders: Vec<_> = self.0.iter().collect();
        leaders.sort_by_key(|(_, votes)| std::cmp::Reverse(**votes));
        leaders
            .into_iter()
            .map(|(shortcode, votes)| VotingResult {
                shortcode: (*shortcode).to_owned(),
                votes: i32::try_from(*votes).unwrap_or(i32::MAX),
            })
            .collect()
    }
}

/// `emojivoto.v1.VotingService`.
#[derive(Clone, Debug)]
pub struct VotingService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    faults: Faults,
    ballot: Mutex<Ballot>,
    counters: Counters,
    methods: BTreeMap<String, &'static str>,
}

impl VotingService {
    /// An empty ballot.
    pub fn new(faults: Faults) -> VotingService {
        let methods = EMOJI.iter().map(|(shortcode, _)| (vote_method(shortcode), *shortcode)).collect();
        VotingService { shared: Arc::new(Shared { faults, ballot: Mutex::default(), counters: Counters::default(), methods }) }
    }

    /// What there is to scrape.
    pub fn scrape(&self) -> axum::Router {
        self.shared.counters.router()
    }

    async fn answer(self, request: HttpRequest) -> rpc::HttpResponse {
        let path = request.uri().path().to_owned();
        let method = path
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(VOTING_SERVICE))
            .and_then(|path| path.strip_prefix('/'))
            .unwrap_or_default();
        let shared = self.shared.clone();
        let (known, response) = if method == RESULTS {
            let leaders = move |_: ResultsRequest| shared.clone().results();
            (RESULTS, rpc::unary(request, leaders).await)
        } else if let Some(shortcode) = shared.methods.get(method).copied() {
            let vote = move |_: VoteRequest| shared.clone().vote(shortcode);
            (method, rpc::unary(request, vote).await)
        } else {
            (UNKNOWN_METHOD, rpc::unimplemented(&path))
        };
        self.shared.counters.handled(VOTING_SERVICE, known, rpc::code(&response));
        response
    }
}

impl Shared {
    async fn results(self: Arc<Self>) -> Result<ResultsResponse, Status> {
        let ballot = self.ballot.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(ResultsResponse { results: ballot.leaders() })
    }

    async fn vote(self: Arc<Self>, shortcode: &'static str) -> Result<VoteResponse, Status> {
        tokio::time::sleep(self.faults.delay).await;
        if shortcode == DOUGHNUT && rand::random::<f64>() < self.faults.failure_rate {
            tracing::error!(emoji = shortcode, "cannot count the vote");
            return Err(Status::unknown("ERROR"));
        }
        let votes = self.ballot.lock().unwrap_or_else(PoisonError::into_inner).vote(shortcode);
        self.counters.voted(shortcode);
        tracing::info!(emoji = shortcode, votes, "voted");
        Ok(VoteResponse {})
    }
}

impl Service<HttpRequest> for VotingService {
    type Response = rpc::HttpResponse;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> Answer {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}
