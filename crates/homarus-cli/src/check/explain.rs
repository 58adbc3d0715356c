//! What to do about a check: the page that hints point to, which this program has inside.

use crate::failure::Failure;

/// A section for each anchor: a line with the anchor, a heading, text.
const PAGE: &str = include_str!("../../../../docs/checks/README.md");

/// How a section begins.
const BEGIN: &str = "<a id=\"";

/// The section of an anchor; a whole hint will do.
pub(super) fn section(hint: &str) -> Result<&'static str, Failure> {
    let wanted = hint.rsplit_once('#').map_or(hint, |(_, anchor)| anchor);
    let unknown = || {
        Failure::usage(format!("no check has the hint {wanted:?}"))
            .remedy("Give what follows the # of a hint, as in l5d-existence-ns; `homarus check` prints hints.")
    };
    let begin = PAGE.find(&format!("{BEGIN}{wanted}\"></a>\n")).ok_or_else(unknown)?;
    let text = &PAGE[begin..];
    let text = &text[text.find('\n').map_or(0, |end| end + 1)..];
    let end = [format!("\n{BEGIN}"), "\n## ".to_owned()].iter().filter_map(|next| text.find(next.as_str())).min();
    Ok(text[..end.map_or(text.len(), |end| end + 1)].trim_start_matches('\n'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::super::{extensions, plan};
    use super::*;

    fn anchor(line: &str) -> Option<&str> {
        line.strip_prefix(BEGIN)?.strip_suffix("\"></a>")
    }

    #[test]
    fn every_hint_has_its_section_and_every_section_its_check() {
        let told: Vec<_> = PAGE.lines().filter_map(anchor).collect();
        let unique: BTreeSet<_> = told.iter().copied().collect();
        assert_eq!(told.len(), unique.len(), "an anchor is there twice");
        let modes = [plan::Mode::Pre { cni: true }, plan::Mode::Crds, plan::Mode::ControlPlane, plan::Mode::Proxy];
        let checks = modes.into_iter().flat_map(plan::categories).flat_map(|category| category.checks);
        let mut given: BTreeSet<_> = checks.map(|check| check.anchor).collect();
        given.insert(extensions::ANCHOR);
        assert_eq!(given.difference(&unique).collect::<Vec<_>>(), Vec::<&&str>::new(), "hints without a section");
        assert_eq!(unique.difference(&given).collect::<Vec<_>>(), Vec::<&&str>::new(), "sections without a check");
    }

    #[test]
    fn sections_name_the_checks_they_are_about() {
        let modes = [plan::Mode::Pre { cni: true }, plan::Mode::Crds, plan::Mode::ControlPlane, plan::Mode::Proxy];
        for check in modes.into_iter().flat_map(plan::categories).flat_map(|category| category.checks) {
            let text = section(check.anchor).unwrap();
            assert!(text.contains(check.description), "{}: {:?} isn't named", check.anchor, check.description);
        }
    }

    #[test]
    fn a_section_ends_where_the_next_begins() {
        for anchor in PAGE.lines().filter_map(anchor) {
            let text = section(anchor).unwrap();
            assert!(text.starts_with("### ") && text.len() > 80 && !text.contains(BEGIN), "{anchor}: {text}");
        }
        let hint = "https://example.com/README.md#l5d-existence-ns";
        assert_eq!(section(hint).unwrap(), section("l5d-existence-ns").unwrap());
        assert!(section("nonsense").is_err());
    }
}
