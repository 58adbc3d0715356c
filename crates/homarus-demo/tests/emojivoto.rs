//! All four programs of emojivoto over real sockets, and the manifests that describe them.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use homarus_demo::emojivoto::{emoji::EmojiService, vote_bot, voting, web::Web};
use homarus_demo::serving::{self, Stop, Stopper};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Emoji, voting and web, each on a port of its own.
struct App {
    web: SocketAddr,
    emoji: SocketAddr,
    emoji_metrics: SocketAddr,
    voting: SocketAddr,
    metrics: SocketAddr,
    stopper: Stopper,
    stop: Stop,
    servers: JoinSet<Result<(), serving::ServeError>>,
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

impl App {
    async fn start(faults: voting::Faults) -> App {
        let (stopper, stop) = Stop::channel();
        let mut servers = JoinSet::new();
        let (emoji_listener, emoji) = listener().await;
        let (emoji_metrics_listener, emoji_metrics) = listener().await;
        let (voting_listener, voting) = listener().await;
        let (metrics_listener, metrics) = listener().await;
        let (web_listener, web) = listener().await;
        let catalog = EmojiService::default();
        servers.spawn(serving::serve_grpc(emoji_listener, catalog.clone(), stop.clone()));
        servers.spawn(serving::serve_http(emoji_metrics_listener, catalog.scrape(), stop.clone()));
        let ballot = voting::VotingService::new(faults);
        servers.spawn(serving::serve_http(metrics_listener, ballot.scrape(), stop.clone()));
        servers.spawn(serving::serve_grpc(voting_listener, ballot, stop.clone()));
        let page = Web::new(&emoji.to_string(), &voting.to_string()).unwrap().router("<today>");
        servers.spawn(serving::serve_http(web_listener, page, stop.clone()));
        App { web, emoji, emoji_metrics, voting, metrics, stopper, stop, servers }
    }

    async fn ask(&self, path: &str) -> (u16, String) {
        ask(self.web, path).await
    }

    async fn json(&self, path: &str) -> Value {
        let (status, body) = self.ask(path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Ends everything, and says whether all of it ended well within [`PATIENCE`].
    async fn end(mut self) {
        self.stopper.stop();
        let all = async {
            while let Some(ended) = self.servers.join_next().await {
                ended.unwrap().unwrap()
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("servers drain");
    }
}

async fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let uri = format!("http://{address}{path}").parse().unwrap();
    let response = tokio::time::timeout(PATIENCE, client.get(uri)).await.unwrap().unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn votes_are_counted_and_the_doughnut_fails() {
    let app = App::start(voting::Faults::default()).await;
    assert_eq!(app.json("/api/list").await.as_array().unwrap().len(), 100);
    for choice in [":ghost:", ":taco:", ":ghost:"] {
        assert_eq!(app.ask(&format!("/api/vote?choice={choice}")).await, (200, String::new()));
    }
    let (status, body) = app.ask("/api/vote?choice=:doughnut:").await;
    assert_eq!(status, 500);
    assert_eq!(body, r#"{"error":"rpc error: code = Unknown desc = ERROR"}"#);
    assert_eq!(app.ask("/api/vote").await.0, 400);
    assert_eq!(app.ask("/api/vote?choice=:nobody:").await.0, 400);

    let leaders = app.json("/api/leaderboard").await;
    let expected = serde_json::json!([
        {"shortcode": ":ghost:", "unicode": "👻", "votes": "2"},
        {"shortcode": ":taco:", "unicode": "🌮", "votes": "1"},
    ]);
    assert_eq!(leaders, expected);

    let (_, metrics) = ask(app.metrics, "/metrics").await;
    assert!(metrics.contains("emojivoto_votes_total{emoji=\":ghost:\"} 2"), "{metrics}");
    let failed = "grpc_method=\"VoteDoughnut\",grpc_type=\"unary\",grpc_code=\"Unknown\"} 1";
    assert!(metrics.contains(failed), "{metrics}");
    assert_eq!(ask(app.metrics, "/ready").await.0, 200);
    app.end().await;
}

#[tokio::test]
async fn a_healthy_ballot_counts_the_doughnut_too() {
    let app = App::start(voting::Faults { failure_rate: 0.0, ..Default::default() }).await;
    assert_eq!(app.ask("/api/vote?choice=:doughnut:").await.0, 200);
    assert_eq!(app.json("/api/leaderboard").await[0]["shortcode"], ":doughnut:");
    app.end().await;
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let app = App::start(voting::Faults::default()).await;
    let (status, page) = app.ask("/").await;
    assert_eq!(status, 200);
    assert!(page.contains("Emoji Vote") && page.contains("&lt;today&gt;"));
    assert!(!page.contains("http://") && !page.contains("https://"), "an address outside");
    assert_eq!(app.ask("/leaderboard").await, (200, page));
    assert_eq!(app.ask("/img/icon.svg").await.0, 200);
    assert_eq!(app.ask("/ready").await.0, 200);
    assert_eq!(app.ask("/nothing").await.0, 404);
    app.end().await;
}

#[tokio::test]
async fn a_method_that_is_not_there_is_unimplemented_and_an_absent_service_is_a_fault() {
    let app = App::start(voting::Faults::default()).await;
    // The emoji service, asked for votes: what a wrong VOTINGSVC_HOST looks like.
    let confused = Web::new(&app.emoji.to_string(), &app.emoji.to_string()).unwrap().router("");
    let (listener, address) = listener().await;
    let (_stopper, stop) = Stop::channel();
    tokio::spawn(serving::serve_http(listener, confused, stop));
    let (status, body) = ask(address, "/api/vote?choice=:ghost:").await;
    assert_eq!(status, 500);
    assert!(body.contains("code = Unimplemented") && body.contains("VotingService/VoteGhost"), "{body}");
    app.end().await;
    let (status, body) = ask(address, "/api/list").await;
    assert_eq!(status, 500);
    assert!(body.contains("code = Unavailable") || body.contains("code = Unknown"), "{body}");
}

#[tokio::test]
async fn the_bot_votes_until_it_is_told_to_stop() {
    let app = App::start(voting::Faults::default()).await;
    let (bot_stopper, bot_stop) = Stop::channel();
    let plan = vote_bot::Plan { web_host: app.web.to_string(), host_override: Some("web-svc".into()), rate: 500, ttl: None };
    let bot = tokio::spawn(vote_bot::run(plan, bot_stop));
    let both = async {
        loop {
            let (_, metrics) = ask(app.metrics, "/metrics").await;
            if metrics.contains("emojivoto_votes_total{") && metrics.contains("grpc_code=\"Unknown\"") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("votes that succeed and votes that fail");
    bot_stopper.stop();
    tokio::time::timeout(PATIENCE, bot).await.expect("the bot ends").unwrap();
    app.end().await;
}

#[tokio::test]
async fn the_bot_ends_by_itself_when_its_time_is_over() {
    let app = App::start(voting::Faults::default()).await;
    let ttl = Some(Duration::from_millis(50));
    let plan = vote_bot::Plan { web_host: app.web.to_string(), host_override: None, rate: 100, ttl };
    tokio::time::timeout(PATIENCE, vote_bot::run(plan, app.stop.clone())).await.expect("the bot ends");
    app.end().await;
}

#[tokio::test]
async fn what_was_begun_is_finished_after_the_stop() {
    let app = App::start(voting::Faults { delay: Duration::from_millis(300), ..Default::default() }).await;
    let (web_stopper, web_stop) = Stop::channel();
    let page = Web::new(&app.emoji.to_string(), &app.voting.to_string()).unwrap().router("");
    let (listener, web) = listener().await;
    let server = tokio::spawn(serving::serve_http(listener, page, web_stop));
    let vote = tokio::spawn(ask(web, "/api/vote?choice=:ghost:"));
    let begun = async {
        while !ask(app.emoji_metrics, "/metrics").await.1.contains("FindByShortcode") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.expect("the vote begins");
    web_stopper.stop();
    assert_eq!(vote.await.unwrap().0, 200);
    tokio::time::timeout(PATIENCE, server).await.expect("the page ends").unwrap().unwrap();
    app.end().await;
}

#[test]
fn the_manifests_name_the_programs_and_their_ports() {
    let text = include_str!("../../../examples/emojivoto.yml");
    let objects: Vec<Value> =
        serde_yaml_ng::Deserializer::from_str(text).map(|each| serde::Deserialize::deserialize(each).unwrap()).collect();
    let named = |kind: &str| {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind);
        of_kind.map(|object| object["metadata"]["name"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(named("Namespace"), ["emojivoto"]);
    assert_eq!(named("Deployment"), ["emoji", "vote-bot", "voting", "web"]);
    assert_eq!(named("Service"), ["emoji-svc", "voting-svc", "web-svc"]);
    assert_eq!(named("ServiceAccount"), ["emoji", "voting", "web"]);
    for service in objects.iter().filter(|object| object["kind"] == "Service") {
        let target = objects.iter().find(|object| {
            let labels = &object["spec"]["template"]["metadata"]["labels"];
            object["kind"] == "Deployment" && labels["app"] == service["spec"]["selector"]["app"]
        });
        let ports = target.unwrap()["spec"]["template"]["spec"]["containers"][0]["ports"].as_array().unwrap();
        for port in service["spec"]["ports"].as_array().unwrap() {
            let same = |have: &&Value| have["containerPort"] == port["targetPort"] && have["name"] == port["name"];
            assert!(ports.iter().any(|have| same(&have)), "{port}");
        }
    }
}
