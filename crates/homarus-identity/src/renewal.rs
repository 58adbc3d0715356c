//! When a certificate is due: always long before its end, so that whoever renews it may fail for weeks before anybody notices.

use std::time::{Duration, SystemTime};

use crate::certificate::Certificate;

/// How long a certificate lives in all.
fn span(certificate: &Certificate) -> Duration {
    certificate.not_after.duration_since(certificate.not_before).unwrap_or_default()
}

/// From when on a certificate should be replaced: after two thirds of its life.
pub fn due(certificate: &Certificate) -> SystemTime {
    certificate.not_before + span(certificate) * 2 / 3
}

/// From when on operators are told that a certificate was not replaced in time: after five sixths of its life.
pub fn overdue(certificate: &Certificate) -> SystemTime {
    certificate.not_before + span(certificate) * 5 / 6
}

/// How long a certificate is still valid; nothing if it ended.
pub fn left(certificate: &Certificate, now: SystemTime) -> Duration {
    certificate.not_after.duration_since(now).unwrap_or_default()
}
