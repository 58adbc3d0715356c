//! One stream of the control plane, opened again whenever it ends (proxy-wire §4).

use super::{connect::Control, episode::Episode};
use crate::{
    config::StreamLimits,
    http::channel::Channel,
    net::{self, Instant},
};
use std::{future::Future, time::Duration};
use tonic::{Code, Response, Status, Streaming};

/// Streams that we end ourselves are opened again at once, but not more often than this.
const MIN_LIFE: Duration = Duration::from_millis(100);

/// What a stream says, as far as it matters here.
pub(super) struct Heard<M> {
    /// Whether it is the first of its stream: what was heard on the stream before may be out of date.
    pub(super) first: bool,
    /// The message.
    pub(super) message: M,
}

/// How a stream ended.
enum Outcome {
    /// One of our limits was reached.
    Renew,
    /// The server ended it, or something between.
    Failed(Status),
    /// Nothing came in time. The connection may be dead without knowing it.
    Silent(Duration),
}

/// Keeps a stream open and hands on its messages, until it fails with a status that asking again won't change.
pub(super) async fn follow<M, F, Fut>(
    control: &Control,
    episode: &mut Episode,
    final_codes: &[Code],
    open: F,
    mut on: impl FnMut(&mut Episode, Heard<M>),
) -> Status
where
    F: Fn(Channel) -> Fut,
    Fut: Future<Output = Result<Response<Streaming<M>>, Status>>,
{
    let mut failures = 0;
    loop {
        let channel = control.channel().await;
        let opened = net::now();
        let ended = {
            let on = |heard: Heard<M>| {
                failures = 0;
                episode.answered();
                on(episode, heard);
            };
            read(open(channel.clone()), control.limits(), opened, on).await
        };
        let status = match ended {
            Outcome::Renew => {
                let lived = net::now().duration_since(opened);
                net::sleep(MIN_LIFE.saturating_sub(lived)).await;
                continue;
            }
            Outcome::Failed(status) if final_codes.contains(&status.code()) => return status,
            Outcome::Failed(status) => status,
            Outcome::Silent(limit) => {
                control.distrust(&channel).await;
                Status::deadline_exceeded(format!("no answer within {limit:?}"))
            }
        };
        drop(channel);
        episode.failed(&status);
        net::sleep(control.backoff(failures)).await;
        failures = failures.saturating_add(1);
    }
}

async fn read<M>(
    opening: impl Future<Output = Result<Response<Streaming<M>>, Status>>,
    limits: StreamLimits,
    opened: Instant,
    mut on: impl FnMut(Heard<M>),
) -> Outcome {
    let first = async {
        let mut stream = opening.await?.into_inner();
        let message = stream.message().await?;
        Ok((stream, message))
    };
    let (mut stream, mut message) = match within(limits.initial, first).await {
        None => return Outcome::Silent(limits.initial.unwrap_or_default()),
        Some(Err(status)) => return Outcome::Failed(status),
        Some(Ok(opened)) => opened,
    };
    let mut first = true;
    while let Some(heard) = message {
        on(Heard { first, message: heard });
        first = false;
        let left = limits.lifetime.map(|life| (opened + life).saturating_duration_since(net::now()));
        let wait = [left, limits.idle].into_iter().flatten().min();
        message = match within(wait, stream.message()).await {
            None => return Outcome::Renew,
            Some(Err(status)) => return Outcome::Failed(status),
            Some(Ok(message)) => message,
        };
    }
    Outcome::Failed(Status::unavailable("the control plane ended the stream"))
}

async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => net::timeout(limit, future).await,
        None => Some(future.await),
    }
}
