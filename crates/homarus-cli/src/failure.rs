//! Why a command failed, and what to try.

use std::fmt;

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// What was asked for is not well: a failed check. Said already, on standard output.
    Unwell,
}

/// What commands answer.
pub type Outcome = Result<Exit, Failure>;

/// A command that could not do what it was asked: one sentence, and what to try.
#[derive(Debug)]
pub struct Failure {
    what: String,
    remedy: Option<String>,
    usage: bool,
}

impl Failure {
    /// Something went wrong.
    pub fn new(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), remedy: None, usage: false }
    }

    /// The command line can't mean anything.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), remedy: None, usage: true }
    }

    /// The command line can't mean anything, and whoever read it has said so.
    pub fn said() -> Self {
        Self { what: String::new(), remedy: None, usage: true }
    }

    /// Whether there is nothing left to say.
    pub fn is_said(&self) -> bool {
        self.what.is_empty()
    }

    /// Says what to try.
    #[must_use]
    pub fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = Some(remedy.to_string());
        self
    }

    /// Says what was being done.
    #[must_use]
    pub fn during(mut self, what: impl fmt::Display) -> Self {
        self.what = format!("{what}: {}", self.what);
        self
    }

    /// 1 for what failed, 2 for what was not understood.
    pub fn code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  {}", remedy.replace('\n', "\n  ")),
            None => Ok(()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 401 => {
                Self::new(&status.message).remedy("The cluster doesn't know you: check the credentials of your kubeconfig.")
            }
            kube::Error::Api(status) if status.code == 403 => {
                Self::new(&status.message).remedy("The cluster knows you, but you lack the rights: ask for them, or use --as.")
            }
            kube::Error::Api(status) => Self::new(&status.message),
            other => Self::new(format!("cannot reach the Kubernetes API: {}", causes(other)))
                .remedy("Is the cluster up, and does --context name the right one? `kubectl cluster-info` tells."),
        }
    }
}

/// An error with everything that led to it, each said once.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause.source();
    }
    said
}
