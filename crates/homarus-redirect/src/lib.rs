//! homarus-redirect
