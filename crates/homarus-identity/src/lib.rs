//! homarus-identity
