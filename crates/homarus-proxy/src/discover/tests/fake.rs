//! A control plane that says what a test tells it to, over real sockets, and can be killed and started again.

use homarus_wire::api::{
    destination::{self as dst, destination_server},
    inbound::{self as ib, inbound_server_policies_server},
    outbound::{self as ob, outbound_policies_server},
};
use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, async_trait};

type Boxed<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Drives one stream; it ends when this is dropped.
pub(super) type Driver<M> = mpsc::Sender<Result<M, Status>>;

enum Answer<M> {
    Refuse(Status),
    Stream(mpsc::Receiver<Result<M, Status>>),
}

/// One method: what was asked, and what will be answered, in order. Without an answer left, it is silent.
pub(super) struct Rpc<M> {
    asked: Mutex<Vec<String>>,
    answers: Mutex<VecDeque<Answer<M>>>,
}

impl<M> Default for Rpc<M> {
    fn default() -> Self {
        Self { asked: Mutex::default(), answers: Mutex::default() }
    }
}

impl<M: Send + 'static> Rpc<M> {
    /// The next call gets a stream, which says these and stays open.
    pub(super) fn stream(&self, messages: impl IntoIterator<Item = M>) -> Driver<M> {
        let (driver, stream) = mpsc::channel(16);
        for message in messages {
            driver.try_send(Ok(message)).unwrap();
        }
        self.answers.lock().unwrap().push_back(Answer::Stream(stream));
        driver
    }

    /// The next call is refused.
    pub(super) fn refuse(&self, code: Code) {
        self.refuse_with(Status::new(code, "as the test says"));
    }

    /// The next call is refused so.
    pub(super) fn refuse_with(&self, status: Status) {
        self.answers.lock().unwrap().push_back(Answer::Refuse(status));
    }

    /// What was asked so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, asked: String) -> Result<Response<Boxed<M>>, Status> {
        self.asked.lock().unwrap().push(asked);
        match self.answers.lock().unwrap().pop_front() {
            Some(Answer::Stream(stream)) => Ok(Response::new(Box::pin(ReceiverStream::new(stream)))),
            Some(Answer::Refuse(status)) => Err(status),
            None => Ok(Response::new(Box::pin(tokio_stream::pending()))),
        }
    }
}

/// What the control plane says.
#[derive(Default)]
pub(super) struct Script {
    pub(super) get: Rpc<dst::Update>,
    pub(super) get_profile: Rpc<dst::DestinationProfile>,
    pub(super) watch: Rpc<ob::OutboundPolicy>,
    pub(super) watch_port: Rpc<ib::Server>,
}

/// A running control plane.
pub(super) struct Fake {
    pub(super) addr: SocketAddr,
    runtime: Runtime,
    drain: Option<oneshot::Sender<()>>,
}

impl Fake {
    /// Starts on a free port.
    pub(super) fn start(script: Arc<Script>) -> Self {
        Self::try_start((Ipv4Addr::LOCALHOST, 0).into(), script).unwrap()
    }

    /// Starts on the port where another was before, once that has let go of it.
    pub(super) async fn start_on(addr: SocketAddr, script: Arc<Script>) -> Self {
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        loop {
            match Self::try_start(addr, script.clone()) {
                Ok(started) => return started,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    fn try_start(addr: SocketAddr, script: Arc<Script>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _inside = runtime.enter();
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(addr).and_then(|()| socket.listen(128))
        };
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                // Dropping a runtime isn't allowed in another.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let addr = listener.local_addr()?;
        let (drain, draining) = oneshot::channel();
        let says = Arc::new(Says(script));
        let server = tonic::transport::Server::builder()
            .add_service(destination_server::DestinationServer::from_arc(says.clone()))
            .add_service(outbound_policies_server::OutboundPoliciesServer::from_arc(says.clone()))
            .add_service(inbound_server_policies_server::InboundServerPoliciesServer::from_arc(says))
            .serve_with_incoming_shutdown(tokio_stream::wrappers::TcpListenerStream::new(listener), async move {
                let _ = draining.await;
            });
        runtime.spawn(server);
        Ok(Self { addr, runtime, drain: Some(drain) })
    }

    /// Takes nothing new; what is open goes on.
    pub(super) fn drain(&mut self) {
        drop(self.drain.take());
    }

    /// Kills it: all its connections break.
    pub(super) fn kill(self) -> SocketAddr {
        self.runtime.shutdown_background();
        self.addr
    }
}

struct Says(Arc<Script>);

#[async_trait]
impl destination_server::Destination for Says {
    type GetStream = Boxed<dst::Update>;
    type GetProfileStream = Boxed<dst::DestinationProfile>;

    async fn get(&self, req: Request<dst::GetDestination>) -> Result<Response<Self::GetStream>, Status> {
        let req = req.into_inner();
        self.0.get.answer(format!("{} {}", req.path, req.context_token))
    }

    async fn get_profile(&self, req: Request<dst::GetDestination>) -> Result<Response<Self::GetProfileStream>, Status> {
        let req = req.into_inner();
        self.0.get_profile.answer(format!("{} {}", req.path, req.context_token))
    }
}

#[async_trait]
impl outbound_policies_server::OutboundPolicies for Says {
    type WatchStream = Boxed<ob::OutboundPolicy>;

    async fn get(&self, _: Request<ob::TrafficSpec>) -> Result<Response<ob::OutboundPolicy>, Status> {
        Err(Status::unimplemented("proxies watch"))
    }

    async fn watch(&self, req: Request<ob::TrafficSpec>) -> Result<Response<Self::WatchStream>, Status> {
        let req = req.into_inner();
        let addr = match req.target {
            Some(ob::traffic_spec::Target::Addr(addr)) => SocketAddr::try_from(addr).unwrap().to_string(),
            Some(ob::traffic_spec::Target::Authority(name)) => name,
            None => String::new(),
        };
        self.0.watch.answer(format!("{addr} {}", req.source_workload))
    }
}

#[async_trait]
impl inbound_server_policies_server::InboundServerPolicies for Says {
    type WatchPortStream = Boxed<ib::Server>;

    async fn get_port(&self, _: Request<ib::PortSpec>) -> Result<Response<ib::Server>, Status> {
        Err(Status::unimplemented("proxies watch"))
    }

    async fn watch_port(&self, req: Request<ib::PortSpec>) -> Result<Response<Self::WatchPortStream>, Status> {
        let req = req.into_inner();
        self.0.watch_port.answer(format!("{} {}", req.port, req.workload))
    }
}
