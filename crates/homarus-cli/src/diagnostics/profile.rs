//! `diagnostics profile`: what the destination controller tells proxies about an address, as far as its first answer goes.

use homarus_wire::api::destination::GetDestination;
use homarus_wire::api::destination::destination_client::DestinationClient;
use prost::Message;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::{ANSWER_TIMEOUT, protobuf};
use crate::failure::{Exit, Failure, Outcome};
use crate::terminal;

/// Asks and prints.
pub(super) async fn run(channel: Channel, address: &str, token: &str) -> Outcome {
    let asked = timeout(ANSWER_TIMEOUT, first(channel, address, token));
    let bytes = asked.await.map_err(|_| Failure::new("Destination API error: no answer"))??;
    let json = protobuf::to_json("destination.DestinationProfile", &bytes).map_err(Failure::new)?;
    terminal::print(&format!("{}\n", serde_json::to_string_pretty(&json).map_err(Failure::new)?))?;
    Ok(Exit::Ok)
}

async fn first(channel: Channel, address: &str, token: &str) -> Result<Vec<u8>, Failure> {
    let failed = |status: tonic::Status| Failure::new(format!("Destination API error: {}", status.message()));
    let request = GetDestination { scheme: String::new(), path: address.to_owned(), context_token: token.to_owned() };
    let mut updates = DestinationClient::new(channel).get_profile(request).await.map_err(failed)?.into_inner();
    let profile = updates.message().await.map_err(failed)?;
    profile.map(|profile| profile.encode_to_vec()).ok_or_else(|| Failure::new("Destination API error: the answer is empty"))
}
