//! Service profiles: what discovery tells of an address that a client dialed.

use crate::{Meta, endpoint::Endpoint};
use std::sync::Arc;

/// What is known of an original destination or of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The fully qualified name of the service, if the target is one.
    pub fqn: Option<Arc<str>>,
    /// Don't parse: carry bytes.
    pub opaque_protocol: bool,
    /// The one endpoint that the address is, if it is a workload's.
    pub endpoint: Option<Endpoint>,
    /// The service's port.
    pub parent: Option<Meta>,
    /// The profile object, if one exists.
    pub profile: Option<Meta>,
}
