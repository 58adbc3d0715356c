//! The service that knows which emoji there are.

use std::convert::Infallible;
use std::task::{Context, Poll};

use tonic::Status;
use tower::Service;

use super::catalog;
use super::proto::{
    EMOJI_SERVICE, Emoji, FIND_BY_SHORTCODE, FindByShortcodeRequest, FindByShortcodeResponse, LIST_ALL, ListAllEmojiRequest,
    ListAllEmojiResponse,
};
use super::rpc::{self, Answer, HttpRequest};
use super::scrape::{Counters, UNKNOWN_METHOD};

/// `emojivoto.v1.EmojiService`.
#[derive(Clone, Debug, Default)]
pub struct EmojiService {
    counters: Counters,
}

impl EmojiService {
    /// What there is to scrape.
    pub fn scrape(&self) -> axum::Router {
        self.counters.router()
    }

    async fn answer(self, request: HttpRequest) -> rpc::HttpResponse {
        let path = request.uri().path().to_owned();
        let method =
            path.strip_prefix('/').and_then(|path| path.strip_prefix(EMOJI_SERVICE)).and_then(|path| path.strip_prefix('/'));
        let (known, response) = match method {
            Some(LIST_ALL) => (LIST_ALL, rpc::unary(request, list_all).await),
            Some(FIND_BY_SHORTCODE) => (FIND_BY_SHORTCODE, rpc::unary(request, find_by_shortcode).await),
            _ => (UNKNOWN_METHOD, rpc::unimplemented(&path)),
        };
        self.counters.handled(EMOJI_SERVICE, known, rpc::code(&response));
        response
    }
}

async fn list_all(_: ListAllEmojiRequest) -> Result<ListAllEmojiResponse, Status> {
    let list = catalog::EMOJI.iter().map(|(shortcode, unicode)| emoji(shortcode, unicode)).collect();
    Ok(ListAllEmojiResponse { list })
}

async fn find_by_shortcode(request: FindByShortcodeRequest) -> Result<FindByShortcodeResponse, Status> {
    let found = catalog::unicode(&request.shortcode);
    Ok(FindByShortcodeResponse { emoji: found.map(|unicode| emoji(&request.shortcode, unicode)) })
}

fn emoji(shortcode: &str, unicode: &str) -> Emoji {
    Emoji { unicode: unicode.to_owned(), shortcode: shortcode.to_owned() }
}

impl Service<HttpRequest> for EmojiService {
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
