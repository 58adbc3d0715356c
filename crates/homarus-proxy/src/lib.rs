//! homarus-proxy
