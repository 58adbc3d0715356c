//! One connection for all requests to one place.

use super::client::Client;
use futures::future::{FutureExt, LocalBoxFuture, Shared as Joined};
use std::{cell::RefCell, future::Future, rc::Rc};

/// A connection that whoever needs it first has made, for all who wait for it; made again when it has ended.
pub struct Shared<E> {
    last: RefCell<Option<Attempt<E>>>,
}

/// A connection on its way, or what became of it.
type Attempt<E> = Joined<LocalBoxFuture<'static, Result<Client, Rc<E>>>>;

impl<E: 'static> Shared<E> {
    /// No connection yet.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { last: RefCell::default() })
    }

    /// The connection. It is made on its own, so that it doesn't end with the request that needed it first. Whoever waited
    /// for an attempt gets what became of it, even if it has ended by then: sending says so, and who may try again decides.
    pub async fn client<F>(&self, connect: impl Fn() -> F) -> Result<Client, Rc<E>>
    where
        F: Future<Output = Result<Client, E>> + 'static,
    {
        let attempt = {
            let mut last = self.last.borrow_mut();
            match last.as_ref().map(|attempt| (attempt, attempt.peek())) {
                Some((_, Some(Ok(client)))) if client.is_open() => return Ok(client.clone()),
                Some((attempt, None)) => attempt.clone(),
                _ => {
                    let connecting = connect();
                    let attempt = async move { connecting.await.map_err(Rc::new) }.boxed_local().shared();
                    tokio::task::spawn_local(attempt.clone().map(drop));
                    last.insert(attempt).clone()
                }
            }
        };
        attempt.await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{http::h2::Settings, io::Io, net::TcpStream};
    use std::{cell::Cell, time::Duration};
    use tokio::task::LocalSet;

    /// A connection whose server closes it at once.
    async fn closed() -> Client {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        drop(listener.accept().unwrap());
        let client = Client::connect(Io::from(tcp), &Settings::default()).await.unwrap();
        while client.is_open() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client
    }

    #[tokio::test]
    async fn an_attempt_is_made_once_for_all_who_wait() {
        let (shared, attempts) = (Shared::<String>::new(), Cell::new(0));
        let connect = || {
            attempts.set(attempts.get() + 1);
            async { Ok(closed().await) }
        };
        let both = async { tokio::join!(shared.client(connect), shared.client(connect)) };
        let both = LocalSet::new().run_until(tokio::time::timeout(Duration::from_secs(5), both)).await.unwrap();
        assert!(!both.0.unwrap().is_open() && !both.1.unwrap().is_open());
        assert_eq!(attempts.get(), 1, "no further attempt by itself");
    }

    #[tokio::test]
    async fn what_failed_or_ended_is_tried_again_when_asked_again() {
        let (shared, attempts) = (Shared::<String>::new(), Cell::new(0));
        let connect = || {
            attempts.set(attempts.get() + 1);
            let fails = attempts.get() == 1;
            async move { if fails { Err("no".to_owned()) } else { Ok(closed().await) } }
        };
        let asked = async {
            assert_eq!(*shared.client(connect).await.err().unwrap(), "no");
            assert!(!shared.client(connect).await.unwrap().is_open());
            assert!(!shared.client(connect).await.unwrap().is_open());
        };
        LocalSet::new().run_until(asked).await;
        assert_eq!(attempts.get(), 3);
    }
}
