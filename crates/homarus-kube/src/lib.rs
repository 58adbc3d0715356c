//! All that is Kubernetes-shaped: CRD types, annotations, objects into facts, manifests.
