//! The answer to an upgrade: which carrier, which protocol.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

use super::websocket;
use crate::api::refusal::{Answer, Refusal};
use crate::api::serve::respond::{self, Body};

/// The header by which SPDY clients offer protocols, and are told which.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: &str = "SPDY/3.1";
/// So many connections may have left HTTP behind at once; more are refused.
const MAX_UPGRADED: usize = 1024;
static ROOM: Semaphore = Semaphore::const_new(MAX_UPGRADED);
/// More offers of one client aren't looked at.
const MAX_OFFERS: usize = 16;

/// How a connection is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// SPDY on the bare connection.
    Spdy,
    /// SPDY through WebSocket messages.
    Tunnel,
    /// Numbered channels in WebSocket messages.
    Channels,
}

/// What can be done for a kind of request: protocols by carrier, the best first.
pub type Offers = &'static [(Carrier, &'static str)];

/// The upgraded connection.
pub type Upgrade = TokioIo<Upgraded>;

/// What was agreed on: to be answered, and carried.
#[derive(Debug, PartialEq, Eq)]
pub struct Agreed {
    /// How.
    pub carrier: Carrier,
    protocol: &'static str,
    accept_key: String,
}

/// Picks what the client offers and we do.
pub fn agree(headers: &HeaderMap, offers: Offers) -> Answer<Agreed> {
    let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let upgrades = text(&header::CONNECTION).split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let to = text(&header::UPGRADE).to_ascii_lowercase();
    let websocket = to == "websocket";
    if !upgrades || !(websocket || to.starts_with("spdy/")) {
        return Err(Refusal::bad_request("Upgrade request required"));
    }
    let name = if websocket { header::SEC_WEBSOCKET_PROTOCOL } else { STREAM_PROTOCOL };
    let said = headers.get_all(&name).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let offered: Vec<&str> = said.map(str::trim).take(MAX_OFFERS).collect();
    let fits =
        |(carrier, protocol): &&(Carrier, &'static str)| (*carrier != Carrier::Spdy) == websocket && offered.contains(protocol);
    let (carrier, protocol) = *offers.iter().find(fits).ok_or_else(|| unknown(&offered, offers))?;
    let accept_key = if websocket { websocket::accept_key(text(&header::SEC_WEBSOCKET_KEY)) } else { String::new() };
    Ok(Agreed { carrier, protocol, accept_key })
}

fn unknown(offered: &[&str], offers: Offers) -> Refusal {
    let known: Vec<&str> = offers.iter().map(|(_, protocol)| *protocol).collect();
    let (offered, known) = (offered.join(" "), known.join(" "));
    Refusal::new(
        403,
        "",
        format!("unable to upgrade: unable to negotiate protocol: client supports [{offered}], server accepts [{known}]"),
    )
}

impl Agreed {
    /// Answers, and carries the connection as soon as it is one.
    pub fn answer<F>(
        self,
        mut head: Request<()>,
        carry: impl FnOnce(Carrier, Upgrade) -> F + Send + 'static,
    ) -> Answer<Response<Body>>
    where
        F: Future<Output = ()> + Send,
    {
        let full =
            |_| Refusal::new(429, "TooManyRequests", format!("{MAX_UPGRADED} connections are forwarded or attached already"));
        let permit = ROOM.try_acquire().map_err(full)?;
        let carrier = self.carrier;
        let upgraded = hyper::upgrade::on(&mut head);
        tokio::spawn(async move {
            match upgraded.await {
                Ok(connection) => carry(carrier, TokioIo::new(connection)).await,
                Err(error) => tracing::debug!(%error, "an upgraded connection never began"),
            }
            drop(permit);
        });
        let mut response = Response::new(respond::full(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let protocol = HeaderValue::from_static(self.protocol);
        if carrier == Carrier::Spdy {
            headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
            headers.insert(STREAM_PROTOCOL, protocol);
        } else {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&self.accept_key).map_err(Refusal::internal)?);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OFFERS: Offers = &[(Carrier::Tunnel, "SPDY/3.1+x"), (Carrier::Channels, "v4.x"), (Carrier::Spdy, "x")];

    fn agreed(pairs: &[(&'static str, &'static str)]) -> Result<(Carrier, &'static str), u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        agree(&headers, OFFERS).map(|a| (a.carrier, a.protocol)).map_err(|r| r.code)
    }

    #[test]
    fn clients_get_what_both_sides_know() {
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-key", "x")];
        let check = |protocol, wanted| {
            let all = [&websocket[..], &[("sec-websocket-protocol", protocol)]].concat();
            assert_eq!(agreed(&all), wanted, "{protocol}");
        };
        check("v4.x", Ok((Carrier::Channels, "v4.x")));
        check("v5.x, v4.x", Ok((Carrier::Channels, "v4.x")));
        check("v4.x, SPDY/3.1+x", Ok((Carrier::Tunnel, "SPDY/3.1+x")));
        // The protocol of another carrier isn't one.
        check("x", Err(403));
        let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let offered = |protocols: &[&'static str]| {
            let named = protocols.iter().map(|p| ("x-stream-protocol-version", *p));
            agreed(&spdy.into_iter().chain(named).collect::<Vec<_>>())
        };
        assert_eq!(offered(&["y", "x"]), Ok((Carrier::Spdy, "x")));
        assert_eq!(offered(&["v4.x"]), Err(403));
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        for headers in
            [&[][..], &[("upgrade", "websocket")], &[("connection", "upgrade")], &[("connection", "upgrade"), ("upgrade", "h2c")]]
        {
            assert_eq!(agreed(headers), Err(400), "{headers:?}");
        }
    }
}
