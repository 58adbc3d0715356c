//! What a runtime says to a plugin, and how a plugin answers (CNI specification 1.1.0, sections 2 and 5).
//!
//! A runtime gives the command in the environment and the configuration on standard input; it takes a result or an error as
//! JSON from standard output. The result of the plugins before us is handed on to the byte.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::netconf::NetConf;

/// Versions of the protocol that are spoken; we neither read nor change what differs between them.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version of an answer to what names none.
const OLDEST: &str = "0.1.0";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A pod's network namespace was made: set its rules.
    Add,
    /// Are they still there?
    Check,
    /// It goes away, and its rules with it.
    Del,
    /// Forget what belongs to no pod.
    Gc,
    /// Would an `ADD` work?
    Status,
    /// Which versions are spoken?
    Version,
}

/// Codes of errors: those below 100 are the specification's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version isn't spoken.
    IncompatibleVersion = 1,
    /// The environment lacks something, or it is wrong.
    InvalidEnvironment = 4,
    /// Standard input can't be read.
    Io = 5,
    /// It isn't what it should be.
    Decode = 6,
    /// The configuration can't be what somebody wants.
    InvalidConfig = 7,
    /// Something is away; the runtime should try again.
    TryAgain = 11,
    /// No `ADD` would work.
    Unavailable = 50,
    /// The API server refused to tell about the pod.
    Refused = 100,
    /// The rules couldn't be set.
    Rules = 101,
    /// The rules that should be there aren't.
    Missing = 102,
}

/// Why a command failed, as runtimes show it: kubelet puts it into an event of the pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {details}")]
pub struct CniError {
    /// What kind of error.
    pub code: Code,
    /// What failed.
    pub message: &'static str,
    /// Why, and what to try.
    pub details: String,
}

impl CniError {
    /// An error.
    pub fn new(code: Code, message: &'static str, details: impl ToString) -> Self {
        Self { code, message, details: details.to_string() }
    }

    /// What is printed.
    pub fn json(&self, version: &str) -> String {
        json!({
            "cniVersion": version,
            "code": self.code as u32,
            "msg": format!("linkerd-cni: {}", self.message),
            "details": self.details,
        })
        .to_string()
    }
}

/// The environment of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is to be done.
    pub command: Command,
    /// The pod's network namespace.
    pub netns: Option<PathBuf>,
    /// Which pod, if the runtime is Kubernetes'.
    pub pod: Option<PodName>,
}

/// Which pod a sandbox is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Tells it from others that had its name.
    pub uid: Option<String>,
}

impl Call {
    /// Reads the environment, as `var` gives it.
    pub fn of(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, CniError> {
        let invalid = |details: String| CniError::new(Code::InvalidEnvironment, "the environment is wrong", details);
        let text = |name: &'static str| match var(name).map(OsString::into_string) {
            Some(Ok(text)) => Ok(text),
            Some(Err(_)) => Err(invalid(format!("{name} isn't UTF-8"))),
            None => Ok(String::new()),
        };
        let command = match text("CNI_COMMAND")?.as_str() {
            "ADD" => Command::Add,
            "CHECK" => Command::Check,
            "DEL" => Command::Del,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            "" => return Err(invalid("CNI_COMMAND is missing: this program is started by a container runtime".into())),
            other => return Err(invalid(format!("CNI_COMMAND is {other:?}, which this plugin doesn't know"))),
        };
        let netns = var("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self { command, netns, pod: PodName::of(&text("CNI_ARGS")?).map_err(invalid)? })
    }
}

impl PodName {
    /// Reads `K8S_POD_NAMESPACE=a;K8S_POD_NAME=b`. Without these it isn't Kubernetes that asks.
    fn of(arguments: &str) -> Result<Option<Self>, String> {
        let pairs = arguments.split(';').filter(|pair| !pair.is_empty());
        let pairs: Option<BTreeMap<&str, &str>> = pairs.map(|pair| pair.split_once('=')).collect();
        let pairs = pairs.ok_or_else(|| format!("CNI_ARGS is {arguments:?}, not names with values"))?;
        let value = |name: &str| pairs.get(name).copied().filter(|value| !value.is_empty()).map(str::to_owned);
        let (Some(namespace), Some(name)) = (value("K8S_POD_NAMESPACE"), value("K8S_POD_NAME")) else {
            return Ok(None);
        };
        for part in [&namespace, &name] {
            // They become a part of a URL.
            if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
                return Err(format!("{part:?} in CNI_ARGS can't be the name of a pod"));
            }
        }
        Ok(Some(Self { namespace, name, uid: value("K8S_POD_UID") }))
    }
}

/// The configuration on standard input.
#[derive(Debug)]
pub struct Input {
    /// The version of the protocol.
    pub version: String,
    /// What the plugin before us gave.
    pub previous: Option<Box<RawValue>>,
    /// Ours.
    pub config: NetConf,
}

fn oldest() -> String {
    OLDEST.to_owned()
}

impl Input {
    /// Reads it.
    pub fn read(text: &str) -> Result<Self, CniError> {
        #[derive(Deserialize)]
        struct Outer {
            #[serde(rename = "cniVersion", default = "oldest")]
            version: String,
            #[serde(rename = "prevResult")]
            previous: Option<Box<RawValue>>,
        }
        let unreadable = |error: serde_json::Error| CniError::new(Code::Decode, "the network configuration can't be read", error);
        let outer: Outer = serde_json::from_str(text).map_err(unreadable)?;
        if !VERSIONS.contains(&outer.version.as_str()) {
            let details = format!("it is {}, spoken are {}", outer.version, VERSIONS.join(", "));
            return Err(CniError::new(Code::IncompatibleVersion, "the configuration's cniVersion isn't spoken", details));
        }
        let config = serde_json::from_str(text).map_err(unreadable)?;
        Ok(Self { version: outer.version, previous: outer.previous, config })
    }

    /// What an `ADD` gives: what was there before, or a result without anything.
    pub fn result(&self) -> String {
        match &self.previous {
            Some(previous) => previous.get().to_owned(),
            None => json!({ "cniVersion": self.version }).to_string(),
        }
    }
}

/// The version in which to answer what may not be readable.
pub fn version_of(input: &str) -> String {
    #[derive(Deserialize)]
    struct Outer {
        #[serde(rename = "cniVersion")]
        version: String,
    }
    let said = serde_json::from_str::<Outer>(input).map(|outer| outer.version);
    said.ok().filter(|version| VERSIONS.contains(&version.as_str())).unwrap_or_else(oldest)
}

/// The answer to `VERSION`.
pub fn versions(input: &str) -> String {
    json!({ "cniVersion": version_of(input), "supportedVersions": VERSIONS }).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn call(variables: &[(&str, &str)]) -> Result<Call, CniError> {
        Call::of(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn runtimes_say_what_to_do_with_which_pod() {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b.c;K8S_POD_INFRA_CONTAINER_ID=x;K8S_POD_UID=u";
        let found = call(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "/run/netns/x"), ("CNI_ARGS", arguments)]).unwrap();
        assert_eq!(found.command, Command::Add);
        assert_eq!(found.netns.unwrap(), PathBuf::from("/run/netns/x"));
        assert_eq!(found.pod.unwrap(), PodName { namespace: "a".into(), name: "b.c".into(), uid: Some("u".into()) });
        assert_eq!(call(&[("CNI_COMMAND", "DEL")]).unwrap().pod, None);
        assert_eq!(call(&[("CNI_COMMAND", "DEL"), ("CNI_ARGS", "A=1;")]).unwrap().pod, None);
    }

    #[test]
    fn a_wrong_environment_is_told() {
        for variables in [
            &[][..],
            &[("CNI_COMMAND", "FLY")],
            &[("CNI_COMMAND", "ADD"), ("CNI_ARGS", "A")],
            &[("CNI_COMMAND", "ADD"), ("CNI_ARGS", "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=c")],
            &[("CNI_COMMAND", "ADD"), ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=c?x")],
        ] {
            assert_eq!(call(variables).unwrap_err().code, Code::InvalidEnvironment, "{variables:?}");
        }
    }

    #[test]
    fn the_previous_result_is_handed_on_to_the_byte() {
        let previous = r#"{"ips":[ {"address": "10.0.0.2/24"}], "cniVersion" : "1.0.0", "b": 1e2}"#;
        let text = format!(r#"{{"cniVersion": "1.0.0", "type": "linkerd-cni", "prevResult": {previous}}}"#);
        assert_eq!(Input::read(&text).unwrap().result(), previous);
        assert_eq!(Input::read(r#"{"cniVersion": "0.4.0"}"#).unwrap().result(), r#"{"cniVersion":"0.4.0"}"#);
    }

    #[test]
    fn versions_are_told_and_others_refused() {
        assert!(versions(r#"{"cniVersion": "1.0.0"}"#).contains(r#""cniVersion":"1.0.0""#));
        assert!(versions("").contains("1.1.0"));
        assert_eq!(Input::read(r#"{"cniVersion": "7.0.0"}"#).unwrap_err().code, Code::IncompatibleVersion);
        assert_eq!(Input::read("{").unwrap_err().code, Code::Decode);
    }

    #[test]
    fn errors_have_the_form_that_runtimes_read() {
        let error = CniError::new(Code::TryAgain, "a", "b \"c\"");
        let read: serde_json::Value = serde_json::from_str(&error.json("1.0.0")).unwrap();
        assert_eq!(read, json!({ "cniVersion": "1.0.0", "code": 11, "msg": "linkerd-cni: a", "details": "b \"c\"" }));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_said_is_understood_or_refused(input in "\\PC{0,60}", arguments in "\\PC{0,40}|[A-Z=;]{0,40}") {
            let _ = Input::read(&input);
            let _ = versions(&input);
            let _ = call(&[("CNI_COMMAND", "ADD"), ("CNI_ARGS", &arguments)]);
        }
    }
}
