//! The embedded API: a small, generic object store that speaks the Kubernetes API.
