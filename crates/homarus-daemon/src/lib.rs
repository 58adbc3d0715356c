//! homarus-daemon
