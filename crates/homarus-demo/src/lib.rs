//! homarus-demo
