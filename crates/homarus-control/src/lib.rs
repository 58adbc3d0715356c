//! Cluster facts into what each proxy must know; and the side doors: certificates, pod patches, validation.
//!
//! **The life of a resource.** Somebody applies a Server. [`watch`] follows its kind and hears of it; `homarus-kube` reads
//! the object into a fact, or says which field can't be read, and then the last state that could stays in force. Facts go
//! in batches to the one writer, which takes them into the [`index`]; the index names the topics that depend on them. For
//! each view that somebody is subscribed to and that depends on these, [`serve`] computes the view again, and if it is
//! another one, publishes it as a snapshot. Every subscriber's stream wakes up when its connection has room, compares the
//! snapshot with what it was sent last, and sends the difference: encoded once, shared by all.
//!
//! [`destination`] and [`policy`] are two programs around the same path: each follows the kinds that it needs and answers
//! its own calls. [`external`] writes back: EndpointSlices of external workloads, by the leader only. [`issue`] and
//! [`inject`] are side doors that don't know the index; so is [`admit`], which judges what people write before it is stored.

pub mod admit;
pub mod destination;
mod events;
pub mod external;
pub mod heartbeat;
pub mod index;
pub mod inject;
pub mod issue;
pub mod policy;
mod run;
pub mod serve;
pub mod watch;
mod webhook;
