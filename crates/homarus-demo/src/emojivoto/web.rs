//! The web page, and the JSON it lives on.
//!
//! It keeps nothing itself: every answer is asked of the two gRPC services, so their faults show here.

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use tonic::Status;

use super::proto::{
    EMOJI_SERVICE, Emoji, FIND_BY_SHORTCODE, FindByShortcodeRequest, FindByShortcodeResponse, LIST_ALL, ListAllEmojiRequest,
    ListAllEmojiResponse, RESULTS, ResultsRequest, ResultsResponse, VOTING_SERVICE, VoteRequest, VoteResponse, vote_method,
};
use super::rpc::Client;

const PAGE: &str = include_str!("page.html");
const ICON: &str = include_str!("icon.svg");
const MESSAGE_MARK: &str = "<!--message-->";

/// Whom the page asks.
#[derive(Clone, Debug)]
pub struct Web {
    emoji: Client,
    voting: Client,
}

/// A service's address that can't be one.
#[derive(Debug, thiserror::Error)]
#[error("{variable}={host:?} is no address; it must look like emoji-svc.emojivoto:8080: {source}")]
pub struct BadHost {
    variable: &'static str,
    host: String,
    source: tonic::transport::Error,
}

#[derive(Debug, Deserialize)]
struct Vote {
    #[serde(default)]
    choice: String,
}

#[derive(Debug, Serialize)]
struct Listed {
    shortcode: String,
    unicode: String,
}

/// Votes are text, as the page of the well-known application expects them.
#[derive(Debug, Serialize)]
struct Leader {
    shortcode: String,
    unicode: String,
    votes: String,
}

impl Web {
    /// A page that asks the services at these addresses, each a `name:port`. Connects when it is first asked.
    pub fn new(emoji_host: &str, voting_host: &str) -> Result<Web, BadHost> {
        let client = |variable, host: &str, service| {
            Client::lazy(host, service).map_err(|source| BadHost { variable, host: host.to_owned(), source })
        };
        Ok(Web {
            emoji: client("EMOJISVC_HOST", emoji_host, EMOJI_SERVICE)?,
            voting: client("VOTINGSVC_HOST", voting_host, VOTING_SERVICE)?,
        })
    }

    /// Everything that is served; `message` is shown above the page.
    pub fn router(self, message: &str) -> Router {
        let page = PAGE.replace(MESSAGE_MARK, &escaped(message));
        let index = get(move || async move { Html(page) });
        let icon = get(|| async { ([(header::CONTENT_TYPE, "image/svg+xml")], ICON) });
        Router::new()
            .route("/", index.clone())
            .route("/leaderboard", index)
            .route("/img/icon.svg", icon)
            .route("/ready", get(|| async { "ready\n" }))
            .route("/api/list", get(list))
            .route("/api/leaderboard", get(leaderboard))
            .route("/api/vote", get(vote).post(vote))
            .with_state(self)
    }

    async fn find(&self, shortcode: &str) -> Result<Option<Emoji>, Status> {
        let request = FindByShortcodeRequest { shortcode: shortcode.to_owned() };
        let found: FindByShortcodeResponse = self.emoji.call(FIND_BY_SHORTCODE, request).await?;
        Ok(found.emoji)
    }
}

async fn list(State(web): State<Web>) -> Result<Json<Vec<Listed>>, Fault> {
    let all: ListAllEmojiResponse = web.emoji.call(LIST_ALL, ListAllEmojiRequest {}).await?;
    let listed = all.list.into_iter().map(|emoji| Listed { shortcode: emoji.shortcode, unicode: emoji.unicode });
    Ok(Json(listed.collect()))
}

async fn leaderboard(State(web): State<Web>) -> Result<Json<Vec<Leader>>, Fault> {
    let leaders: ResultsResponse = web.voting.call(RESULTS, ResultsRequest {}).await?;
    let shown = leaders.results.into_iter().map(|leader| {
        let web = &web;
        async move {
            let emoji = web.find(&leader.shortcode).await?;
            Ok::<_, Status>(Leader {
                unicode: emoji.map(|emoji| emoji.unicode).unwrap_or_default(),
                shortcode: leader.shortcode,
                votes: leader.votes.to_string(),
            })
        }
    });
    Ok(Json(try_join_all(shown).await?))
}

async fn vote(State(web): State<Web>, Query(vote): Query<Vote>) -> Result<(), Fault> {
    let choice = vote.choice;
    if choice.is_empty() {
        return Err(Fault::caller("the parameter `choice` is missing"));
    }
    if web.find(&choice).await?.is_none() {
        return Err(Fault::caller(format!("there is no emoji {choice:?}")));
    }
    let _: VoteResponse = web.voting.call(&vote_method(&choice), VoteRequest {}).await?;
    Ok(())
}

/// An answer that isn't the one asked for.
#[derive(Debug)]
struct Fault {
    status: StatusCode,
    error: String,
}

impl Fault {
    fn caller(error: impl Into<String>) -> Fault {
        Fault { status: StatusCode::BAD_REQUEST, error: error.into() }
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Fault {
        let (code, desc) = (status.code(), status.message());
        Fault { status: StatusCode::INTERNAL_SERVER_ERROR, error: format!("rpc error: code = {code:?} desc = {desc}") }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::error!(error = %self.error, "cannot serve a request");
        }
        let body = serde_json::json!({ "error": self.error });
        (self.status, Json(body)).into_response()
    }
}

/// `text` as HTML shows it.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}
