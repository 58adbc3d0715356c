//! Idle connections to one endpoint.

use super::client::Client;
use crate::net::{self, Instant};
use std::{cell::RefCell, rc::Rc, time::Duration};

/// Keeps connections between requests; the one that was used last is used next.
pub struct Pool {
    idle: RefCell<Vec<(Client, Instant)>>,
    max_idle: usize,
    idle_timeout: Duration,
    sweeping: std::cell::Cell<bool>,
}

impl Pool {
    /// An empty pool.
    pub fn new(max_idle: usize, idle_timeout: Duration) -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), max_idle, idle_timeout, sweeping: false.into() })
    }

    /// A connection that is idle and, as far as can be known, alive.
    pub fn take(&self) -> Option<Client> {
        loop {
            let (mut client, since) = self.idle.borrow_mut().pop()?;
            if net::now().duration_since(since) < self.idle_timeout && client.is_usable() {
                return Some(client);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub fn put(self: Rc<Self>, client: Client) {
        if self.idle.borrow().len() >= self.max_idle {
            return;
        }
        self.idle.borrow_mut().push((client, net::now()));
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(&self), self.idle_timeout));
        }
    }
}

/// Connections whose peer is no longer believed are closed within this time, however long idle ones are kept.
const MAX_SWEEP: Duration = Duration::from_secs(5);

/// Closes connections that were idle for too long, as long as there are any.
async fn sweep(pool: std::rc::Weak<Pool>, idle_timeout: Duration) {
    loop {
        net::sleep(idle_timeout.min(MAX_SWEEP)).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = net::now();
        let mut idle = pool.idle.borrow_mut();
        idle.retain(|(client, since)| now.duration_since(*since) < idle_timeout && !client.is_lost());
        if idle.is_empty() {
            pool.sweeping.set(false);
            return;
        }
    }
}
