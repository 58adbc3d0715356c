//! The gRPC services.

use super::{Control, Mood, State, views};
use homarus_identity::csr::Request as SigningRequest;
use homarus_wire::trust::{self, TrustUpdate, WatchRequest};
use linkerd2_proxy_api::{destination as dst, identity as id, inbound as ib, outbound as ob};
use std::{pin::Pin, time::SystemTime};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, async_trait};

type Watch<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Control {
    /// Sends what `view` makes of the state, and again whenever that has changed. An error ends the stream.
    fn watch<T: PartialEq + Clone + Send + 'static>(
        &self,
        nonsense: T,
        view: impl Fn(&State) -> Result<T, Status> + Send + 'static,
    ) -> Response<Watch<T>> {
        let (send, receive) = mpsc::channel(1);
        let mut state = self.state.subscribe();
        tokio::spawn(async move {
            let mut last = None;
            loop {
                let now = state.borrow_and_update().clone();
                if let Mood::Slow(delay) = now.mood {
                    tokio::time::sleep(delay).await;
                }
                let value = if now.mood == Mood::Nonsense { Ok(nonsense.clone()) } else { view(&now) };
                let ended = value.is_err();
                if value.as_ref().ok() != last.as_ref() || ended {
                    last = value.as_ref().ok().cloned();
                    if send.send(value).await.is_err() || ended {
                        return;
                    }
                }
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return },
                    () = send.closed() => return,
                }
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receive)))
    }
}

#[async_trait]
impl id::identity_server::Identity for Control {
    async fn certify(&self, request: Request<id::CertifyRequest>) -> Result<Response<id::CertifyResponse>, Status> {
        let request = request.into_inner();
        let refused = |error: String| Status::invalid_argument(error);
        let csr = SigningRequest::parse(&request.certificate_signing_request).map_err(|e| refused(e.to_string()))?;
        let issuer = self.issuer();
        let leaf = issuer.issue(&csr, &request.identity, SystemTime::now()).map_err(|e| refused(e.to_string()))?;
        Ok(Response::new(id::CertifyResponse {
            leaf_certificate: leaf.der().to_vec(),
            intermediate_certificates: issuer.intermediates().map(|der| der.to_vec()).collect(),
            valid_until: Some(leaf.not_after.into()),
        }))
    }
}

impl trust::Trust for Control {
    fn watch(&self, request: Request<WatchRequest>) -> Result<trust::Updates, Status> {
        if self.state.borrow().trust.is_none() {
            return Err(Status::unimplemented("not known here"));
        }
        let request = request.into_inner();
        let mut standings = self.standings.lock();
        standings.retain(|known| known.instance != request.instance);
        standings.push(request);
        drop(standings);
        let me = self.clone();
        let told = move |state: &State| Ok(TrustUpdate { bundle: state.trust.clone().unwrap_or_default(), issuer: me.signer() });
        Ok(Control::watch(self, TrustUpdate::default(), told).into_inner())
    }
}

#[async_trait]
impl dst::destination_server::Destination for Control {
    type GetStream = Watch<dst::Update>;
    type GetProfileStream = Watch<dst::DestinationProfile>;

    async fn get(&self, request: Request<dst::GetDestination>) -> Result<Response<Self::GetStream>, Status> {
        let path = request.into_inner().path;
        let (send, receive) = mpsc::channel(8);
        let mut state = self.state.subscribe();
        tokio::spawn(async move {
            let mut told = Vec::new();
            loop {
                let now = state.borrow_and_update().clone();
                for update in views::endpoints(&now, &path, &mut told) {
                    if send.send(Ok(update)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return },
                    () = send.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn get_profile(&self, request: Request<dst::GetDestination>) -> Result<Response<Self::GetProfileStream>, Status> {
        let path = request.into_inner().path;
        Ok(self.watch(dst::DestinationProfile::default(), move |state| Ok(views::profile(state, &path))))
    }
}

#[async_trait]
impl ob::outbound_policies_server::OutboundPolicies for Control {
    type WatchStream = Watch<ob::OutboundPolicy>;

    async fn get(&self, request: Request<ob::TrafficSpec>) -> Result<Response<ob::OutboundPolicy>, Status> {
        views::outbound(&self.state.borrow(), &request.into_inner()).map(Response::new)
    }

    async fn watch(&self, request: Request<ob::TrafficSpec>) -> Result<Response<Self::WatchStream>, Status> {
        let spec = request.into_inner();
        // What there is no policy for is said so at once, as the real one does.
        if self.state.borrow().mood == Mood::Sane {
            views::outbound(&self.state.borrow(), &spec)?;
        }
        Ok(Control::watch(self, ob::OutboundPolicy::default(), move |state| views::outbound(state, &spec)))
    }
}

#[async_trait]
impl ib::inbound_server_policies_server::InboundServerPolicies for Control {
    type WatchPortStream = Watch<ib::Server>;

    async fn get_port(&self, request: Request<ib::PortSpec>) -> Result<Response<ib::Server>, Status> {
        Ok(Response::new(views::inbound(self.state.borrow().inbound(request.into_inner().port))))
    }

    async fn watch_port(&self, request: Request<ib::PortSpec>) -> Result<Response<Self::WatchPortStream>, Status> {
        let port = request.into_inner().port;
        Ok(self.watch(ib::Server::default(), move |state| Ok(views::inbound(state.inbound(port)))))
    }
}
