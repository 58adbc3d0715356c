//! What the proxy tells about itself: metrics, access log, process figures.

pub mod access;
pub mod balancer;
pub mod http;
pub mod labels;
pub mod process;
pub mod registry;
pub mod stack;

pub use registry::{Counter, Family, Gauge, Histogram, Labels, Registry};
