//! Which requests servers have begun, as they say by datagrams: eight bytes, a number.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;

/// How often each request was begun.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<HashMap<u64, u32>>>);

impl Journal {
    /// Listens in the background, at the port that is returned.
    pub async fn listen() -> io::Result<(Self, u16)> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let port = socket.local_addr()?.port();
        let journal = Self::default();
        let told = journal.clone();
        tokio::spawn(async move {
            let mut number = [0; 8];
            loop {
                if let Ok(8) = socket.recv(&mut number).await {
                    told.begun(u64::from_be_bytes(number));
                }
            }
        });
        Ok((journal, port))
    }

    /// A server has begun this request.
    pub fn begun(&self, number: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
    }

    /// How often a request was begun.
    pub fn times(&self, number: u64) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&number).copied().unwrap_or_default()
    }
}

/// Tells a client's journal.
#[derive(Debug)]
pub struct Teller(UdpSocket);

impl Teller {
    /// A socket to tell by.
    pub async fn new() -> io::Result<Self> {
        Ok(Self(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?))
    }

    /// Who doesn't listen isn't told.
    pub async fn tell(&self, journal: SocketAddr, number: u64) {
        let _ = self.0.send_to(&number.to_be_bytes(), journal).await;
    }
}
