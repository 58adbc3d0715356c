//! What became of each object, for people.

/// What became of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Lower-case; none if the document says none.
    pub(super) kind: Option<String>,
    pub(super) name: String,
    pub(super) result: What,
    pub(super) host_network: bool,
    pub(super) sidecar: bool,
    pub(super) disabled: bool,
    pub(super) udp: bool,
    pub(super) no_token: bool,
    /// Whether it is of a kind that can be changed.
    pub(super) supported: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum What {
    /// It is in the mesh now, or out of it.
    Done,
    /// It was given annotations that take part in no injection.
    Annotated,
    /// Nothing.
    #[default]
    Skipped,
}

impl Report {
    fn place(&self) -> String {
        format!("{}/{}", self.kind.as_deref().unwrap_or_default(), self.name)
    }

    /// Why it can't be in the mesh as it is; someone's `disabled` is no such reason.
    fn refusal(&self) -> Option<&'static str> {
        match self {
            Self { host_network: true, .. } => Some("hostNetwork is enabled"),
            Self { sidecar: true, .. } => Some("pod has a sidecar injected already"),
            Self { no_token: true, .. } => Some(
                "automountServiceAccountToken set to \"false\", with Values.identity.serviceAccountTokenProjection set to \"false\"",
            ),
            _ => None,
        }
    }
}

/// The objects that can't be in the mesh.
pub(super) fn refused(reports: &[Report]) -> Option<String> {
    let lines: Vec<_> =
        reports.iter().filter_map(|report| Some(format!("failed to inject {}: {}", report.place(), report.refusal()?))).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// A warning about some objects, or when asked for, that there is none.
fn about(reports: &[Report], is: impl Fn(&Report) -> bool, warn: impl Fn(&str, usize) -> String, fine: Option<&str>) -> String {
    let places: Vec<_> = reports.iter().filter(|report| is(report)).map(Report::place).collect();
    match fine {
        _ if !places.is_empty() => format!("‼ {}\n", warn(&places.join(", "), places.len())),
        Some(fine) => format!("√ {fine}\n"),
        None => String::new(),
    }
}

/// Everything that is said on standard error.
pub(super) fn text(reports: &[Report], done: &str, verbose: bool) -> String {
    let mut warnings = String::new();
    if done == "injected" {
        let fine = |text: &'static str| verbose.then_some(text);
        warnings += &about(
            reports,
            |r| r.host_network,
            |at, _| format!("\"hostNetwork: true\" detected in {at}"),
            fine("pods do not use host networking"),
        );
        warnings += &about(
            reports,
            |r| r.sidecar,
            |at, _| format!("known 3rd party sidecar detected in {at}"),
            fine("pods do not have a 3rd party proxy or initContainer already injected"),
        );
        warnings += &about(
            reports,
            |r| r.disabled,
            |at, _| format!("\"linkerd.io/inject: disabled\" annotation set on {at}"),
            fine("pods are not annotated to disable injection"),
        );
        if reports.iter().all(|report| !report.supported) {
            warnings += "‼ no supported objects found\n";
        } else if verbose {
            warnings += "√ at least one resource can be injected or annotated\n";
        }
        let uses = |at: &str, number: usize| format!("{at} {} \"protocol: UDP\"", if number == 1 { "uses" } else { "use" });
        warnings += &about(reports, |r| r.udp, uses, fine("pod specs do not include UDP ports"));
        let no_token = |at: &str, _| format!("automountServiceAccountToken set to \"false\" in {at}");
        warnings += &about(
            reports,
            |r| r.no_token,
            no_token,
            fine("pods do not have automountServiceAccountToken set to \"false\" or service account token projection is enabled"),
        );
    }
    let mut text = format!("\n{warnings}");
    if !warnings.is_empty() {
        text.push('\n');
    }
    for report in reports {
        let what = match report.result {
            What::Done => done,
            What::Annotated => "annotated",
            What::Skipped => "skipped",
        };
        text += &match &report.kind {
            Some(kind) => format!("{kind} \"{}\" {what}\n", report.name),
            None => "document missing \"kind\" field, skipped\n".to_owned(),
        };
    }
    text.push('\n');
    text
}
