//! SPDY/3.1, as far as Kubernetes clients speak it: many streams over one upgraded connection, opened by the client.
//!
//! [`frame`] and [`block`] are codecs without I/O, bounded whatever comes: control frames and header blocks by constants,
//! data by what is read at once. [`session`] runs a connection.
//!
//! Deliberately absent: streams opened by the server, priorities, and flow control by windows. No client of Kubernetes
//! updates its windows (moby/spdystream, which kubectl uses, knows none): whoever waited for that would stall after 64
//! KiB. A stream that isn't read holds up its connection instead, as it does with a kubelet.

pub mod block;
mod dictionary;
pub mod frame;
pub mod session;
#[cfg(test)]
mod tests;
