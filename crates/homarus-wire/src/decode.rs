//! Messages of the API into the model: what a proxy is told.
