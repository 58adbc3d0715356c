//! One connection for all requests to one place.

use super::client::Client;
use std::{cell::RefCell, future::Future, rc::Rc};
use tokio::sync::Notify;

/// A connection that whoever needs it first has made, for all who wait for it; made again when it has ended.
pub struct Shared<E> {
    state: RefCell<State<E>>,
    tried: Notify,
}

enum State<E> {
    None,
    Connecting,
    Open(Client),
    Failed(Rc<E>),
}

impl<E: 'static> Shared<E> {
    /// No connection yet.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { state: RefCell::new(State::None), tried: Notify::new() })
    }

    /// The connection. It is made on its own, so that it doesn't end with the request that needed it first.
    pub async fn client<F>(self: &Rc<Self>, connect: impl Fn() -> F) -> Result<Client, Rc<E>>
    where
        F: Future<Output = Result<Client, E>> + 'static,
    {
        loop {
            let tried = self.tried.notified();
            match &*self.state.borrow() {
                State::Open(client) if client.is_open() => return Ok(client.clone()),
                _ => {}
            }
            if !matches!(*self.state.borrow(), State::Connecting) {
                *self.state.borrow_mut() = State::Connecting;
                let (me, connecting) = (self.clone(), connect());
                tokio::task::spawn_local(async move {
                    let made = connecting.await;
                    *me.state.borrow_mut() = made.map_or_else(|error| State::Failed(Rc::new(error)), State::Open);
                    me.tried.notify_waiters();
                });
            }
            tried.await;
            if let State::Failed(error) = &*self.state.borrow() {
                return Err(error.clone());
            }
        }
    }
}
