//! homarus-cli
