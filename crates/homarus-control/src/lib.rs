//! homarus-control
