//! All that is Kubernetes-shaped: CRD types, annotations, objects into facts, manifests.

pub mod annotations;
pub mod crds;
pub mod injection;
pub mod manifests;
pub mod names;
pub mod objects;
