//! homarus-model
