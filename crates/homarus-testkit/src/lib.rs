//! homarus-testkit
