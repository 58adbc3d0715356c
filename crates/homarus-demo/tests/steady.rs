//! The steady server and its client, over real sockets.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use homarus_demo::serving::{Stop, listen};
use homarus_demo::steady::load::{Plan, begin};
use homarus_demo::steady::server::{self, Manner};

/// Far longer than a server takes to answer for the first time.
const STARTS: Duration = Duration::from_secs(60);

/// What became of requests to a server that is told to end a while after its first answer.
async fn asked(http2: bool, drains: Duration, lasts: Duration) -> serde_json::Value {
    let listener = listen(0).await.unwrap();
    let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port()).parse().unwrap();
    let (stopper, stop) = Stop::channel();
    let manner = Manner { takes: Duration::from_millis(5), drains };
    let serving = tokio::spawn(server::run(listener, manner, stop));
    let (never, forever) = Stop::channel();
    let plan = Plan { url, rate: 200, lasts, http2, address: "127.0.0.1".parse().unwrap() };
    let begun = tokio::time::timeout(STARTS, begin(plan, forever.clone())).await.unwrap().unwrap();
    let ending = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stopper.stop();
    };
    let (report, ()) = tokio::join!(begun.run(forever), ending);
    drop(never);
    if drains.is_zero() {
        serving.await.unwrap().unwrap();
    } else {
        serving.abort();
    }
    serde_json::to_value(report).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_leaves_at_once_fails_later_requests_and_none_that_it_had_begun() {
    for http2 in [false, true] {
        let report = asked(http2, Duration::ZERO, Duration::from_secs(2)).await;
        assert!(report["failed"].as_u64().unwrap() > 0, "{report}");
        let failures = report["failures"].as_array().unwrap();
        assert!(failures.iter().all(|failure| failure["begun"] == 0), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_drains_for_longer_than_it_is_asked_fails_nothing() {
    for http2 in [false, true] {
        let report = asked(http2, Duration::from_secs(60), Duration::from_secs(1)).await;
        assert_eq!((&report["failed"], &report["begun_twice"]), (&0.into(), &0.into()), "{report}");
        assert!(report["sent"].as_u64().unwrap() > 0, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_to_end_before_anybody_answers_ends() {
    let listener = listen(0).await.unwrap();
    let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port()).parse().unwrap();
    drop(listener);
    let (stopper, stop) = Stop::channel();
    stopper.stop();
    let plan = Plan { url, rate: 200, lasts: Duration::from_secs(1), http2: false, address: "127.0.0.1".parse().unwrap() };
    let Err(said) = tokio::time::timeout(STARTS, begin(plan, stop)).await.unwrap() else { panic!("somebody answered") };
    assert!(said.to_string().starts_with("ended before anybody answered"), "{said}");
}
