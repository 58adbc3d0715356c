//! homarus-wire
