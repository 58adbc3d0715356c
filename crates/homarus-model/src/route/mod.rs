//! Route matching, the same for clients and servers (proxy-traffic §5; Gateway API HTTPRoute and GRPCRoute).
//!
//! A route applies to some hosts and has rules; a rule has matches and a policy. Among all that match, the best wins:
//! first by host (exact before suffix before any, longer before shorter), then by the rank of the match itself; ties
//! go to the first in the list.

mod filter;
mod matches;
#[cfg(test)]
mod tests;

pub use filter::{Filter, HeaderModifier, InjectedFailure, PathModifier, Ratio, Redirect};
pub use matches::{GrpcMatch, HeaderMatch, HostMatch, HttpMatch, PathMatch, Pattern, QueryMatch, WholeRegex};

use http::{HeaderMap, Method};

/// A route of HTTP requests with policies of type `P`.
pub type HttpRoute<P> = Route<HttpMatch, P>;
/// A route of gRPC requests with policies of type `P`.
pub type GrpcRoute<P> = Route<GrpcMatch, P>;

/// What a match looks at. Borrowed from the request; nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The host the request is for, without a port; none if it has no authority.
    pub host: Option<&'a str>,
    /// The path, without the query.
    pub path: &'a str,
    /// The query, without `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// A route: hosts and rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Route<M, P> {
    /// The hosts it applies to; none means any.
    pub hosts: Vec<HostMatch>,
    /// Its rules, in order.
    pub rules: Vec<Rule<M, P>>,
}

/// A rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule<M, P> {
    /// Alternatives; none means everything, with the lowest rank.
    pub matches: Vec<M>,
    /// What applies to requests that match.
    pub policy: P,
}

/// A match of requests that can be ranked.
pub trait Match {
    /// How specific a match is: larger is better. `Default` is the rank of a rule without matches.
    type Rank: Ord + Copy + Default;

    /// The rank of this match if the request meets all of it.
    fn rank(&self, request: &RequestHead<'_>) -> Option<Self::Rank>;
}

impl<M, P> Route<M, P> {
    /// A route of every request.
    pub fn catch_all(policy: P) -> Self {
        Self { hosts: Vec::new(), rules: vec![Rule { matches: Vec::new(), policy }] }
    }

    /// The same route with its policies made into something else: what resolves policies once, beforehand.
    pub fn map<Q>(&self, mut f: impl FnMut(&P) -> Q) -> Route<M, Q>
    where
        M: Clone,
    {
        let rules = self.rules.iter().map(|rule| Rule { matches: rule.matches.clone(), policy: f(&rule.policy) });
        Route { hosts: self.hosts.clone(), rules: rules.collect() }
    }
}

/// The best rule for a request.
pub fn find<'r, M: Match, P>(routes: &'r [Route<M, P>], request: &RequestHead<'_>) -> Option<&'r P> {
    // Nearly every service has one route without hosts and matches.
    if let [Route { hosts, rules }] = routes
        && let ([], [Rule { matches, policy }]) = (&hosts[..], &rules[..])
        && matches.is_empty()
    {
        return Some(policy);
    }
    let mut best: Option<((matches::HostRank, M::Rank), &P)> = None;
    for route in routes {
        let Some(host) = matches::host_rank(&route.hosts, request.host) else { continue };
        for rule in &route.rules {
            let Some(rank) = rule_rank(&rule.matches, request) else { continue };
            if best.as_ref().is_none_or(|(b, _)| (host, rank) > *b) {
                best = Some(((host, rank), &rule.policy));
            }
        }
    }
    best.map(|(_, policy)| policy)
}

fn rule_rank<M: Match>(matches: &[M], request: &RequestHead<'_>) -> Option<M::Rank> {
    if matches.is_empty() {
        return Some(M::Rank::default());
    }
    matches.iter().filter_map(|m| m.rank(request)).max()
}
