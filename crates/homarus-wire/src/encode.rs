//! The model into messages of the API: what a controller tells.
