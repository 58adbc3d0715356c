//! The flags of linkerd2-proxy-init, all of them, with its defaults.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use homarus_redirect::config::{Config, ConfigError, Request};
use homarus_redirect::install::{self, How, InstallError, Means, UnknownMeans};
use homarus_redirect::rules::Rules;
use tracing::Level;
use tracing_subscriber::filter::Targets;

use crate::logging::{self, LogFormat};

/// Arguments of `init`. Flags that can be switched off take `=false` as Go programs do.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Port to redirect incoming traffic
    #[arg(short = 'p', long, default_value_t = -1, allow_negative_numbers = true)]
    incoming_proxy_port: i64,
    /// Port to redirect outgoing traffic
    #[arg(short = 'o', long, default_value_t = -1, allow_negative_numbers = true)]
    outgoing_proxy_port: i64,
    /// User ID of the proxy, whose traffic is left alone
    #[arg(short = 'u', long, default_value_t = -1, allow_negative_numbers = true)]
    proxy_uid: i64,
    /// Group ID of the proxy, whose traffic is left alone
    #[arg(short = 'g', long, default_value_t = -1, allow_negative_numbers = true)]
    proxy_gid: i64,
    /// Inbound ports to redirect; all of them if none is given
    #[arg(short = 'r', long, value_delimiter = ',', allow_negative_numbers = true)]
    ports_to_redirect: Vec<i64>,
    /// Inbound ports and ranges (inclusive) to leave alone; goes before any other parameter
    #[arg(long, value_name = "PORTS")]
    inbound_ports_to_ignore: Vec<String>,
    /// Outbound ports and ranges (inclusive) to leave alone
    #[arg(long, value_name = "PORTS")]
    outbound_ports_to_ignore: Vec<String>,
    /// Subnets whose inbound traffic is left alone
    #[arg(long, value_name = "CIDRS")]
    subnets_to_ignore: Vec<String>,
    /// Change nothing, print what would be done
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = go_bool, action = clap::ArgAction::Set)]
    simulate: bool,
    /// Network namespace in which to set the rules, instead of this process's
    #[arg(long, default_value = "")]
    netns: String,
    /// Have the iptables programs wait for their lock; netlink never needs to
    #[arg(short = 'w', long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = clap::ArgAction::Set)]
    use_wait_flag: bool,
    /// Sets nf_conntrack_tcp_timeout_close_wait
    #[arg(long, default_value_t = 0)]
    timeout_close_wait_secs: u32,
    /// Log format ("plain" or "json")
    #[arg(long, default_value = "plain")]
    log_format: String,
    /// Log level
    #[arg(long, default_value = "info", value_parser = logging::level)]
    log_level: Level,
    /// "nft" sets rules by netlink; "legacy" and "plain" run the iptables programs of these names, if there are any
    #[arg(long, default_value = "")]
    iptables_mode: String,
    /// The older way to choose the mode: "iptables-nft", "iptables-legacy" or "iptables"
    #[arg(long, default_value = "")]
    firewall_bin_path: String,
    /// Accepted for compatibility; it follows from the mode
    #[arg(long, default_value = "")]
    firewall_save_bin_path: String,
    /// Redirect IPv6 too
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true",
          value_parser = go_bool, action = clap::ArgAction::Set)]
    ipv6: bool,
}

#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Means(#[from] UnknownMeans),
    #[error(transparent)]
    Install(#[from] InstallError),
}

impl InitArgs {
    /// Sets the rules; the exit code is 0 or 1.
    pub fn run(self) -> ExitCode {
        let format = match self.log_format.as_str() {
            "json" => LogFormat::Json,
            _ => LogFormat::Plain,
        };
        logging::start(Targets::new().with_default(self.log_level), format);
        match self.redirect() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::FAILURE
            }
        }
    }

    fn redirect(self) -> Result<(), InitError> {
        let means = Means::of(&self.iptables_mode, &self.firewall_bin_path)?;
        let rules = Rules::of(&Config::resolve(&self.request())?);
        if self.simulate {
            print!("{}", install::simulate(&rules, means, self.use_wait_flag));
            return Ok(());
        }
        let how = How {
            means,
            netns: Some(self.netns).filter(|path| !path.is_empty()).map(PathBuf::from),
            wait: self.use_wait_flag,
            close_wait_secs: Some(self.timeout_close_wait_secs).filter(|seconds| *seconds > 0),
        };
        Ok(install::install(&rules, &how)?)
    }

    fn request(&self) -> Request {
        Request {
            incoming_proxy_port: self.incoming_proxy_port,
            outgoing_proxy_port: self.outgoing_proxy_port,
            proxy_uid: self.proxy_uid,
            proxy_gid: self.proxy_gid,
            ports_to_redirect: self.ports_to_redirect.clone(),
            inbound_ports_to_ignore: entries(&self.inbound_ports_to_ignore),
            outbound_ports_to_ignore: entries(&self.outbound_ports_to_ignore),
            subnets_to_ignore: entries(&self.subnets_to_ignore),
            ipv6: self.ipv6,
        }
    }
}

/// Lists are comma-separated and may be given repeatedly; an empty value has no entry.
fn entries(values: &[String]) -> Vec<String> {
    let given = values.iter().filter(|value| !value.is_empty());
    given.flat_map(|value| value.split(',')).map(str::to_string).collect()
}

/// Booleans as Go's `strconv.ParseBool` reads them.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn parse(line: &str) -> Result<InitArgs, clap::Error> {
        let command = InitArgs::augment_args(Command::new("linkerd2-proxy-init"));
        let words = std::iter::once("linkerd2-proxy-init").chain(line.split_whitespace());
        command.try_get_matches_from(words).map(|found| InitArgs::from_arg_matches(&found).unwrap())
    }

    #[test]
    fn reads_what_the_injector_passes() {
        let args = parse(
            "--firewall-bin-path iptables-nft --firewall-save-bin-path iptables-nft-save --ipv6=false \
             --incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 --proxy-gid 2102 \
             --inbound-ports-to-ignore 4190,4191,4567,4568 --outbound-ports-to-ignore 4567,4568 \
             --timeout-close-wait-secs 300 --log-format json --log-level debug --subnets-to-ignore 10.0.0.0/8",
        )
        .unwrap();
        let request = args.request();
        assert_eq!(
            request,
            Request {
                incoming_proxy_port: 4143,
                outgoing_proxy_port: 4140,
                proxy_uid: 2102,
                proxy_gid: 2102,
                ports_to_redirect: vec![],
                inbound_ports_to_ignore: ["4190", "4191", "4567", "4568"].map(String::from).to_vec(),
                outbound_ports_to_ignore: ["4567", "4568"].map(String::from).to_vec(),
                subnets_to_ignore: vec!["10.0.0.0/8".to_string()],
                ipv6: false,
            }
        );
        assert_eq!(args.timeout_close_wait_secs, 300);
        assert_eq!(Means::of(&args.iptables_mode, &args.firewall_bin_path).unwrap(), Means::Netlink);
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let args = parse("-p 4143 -o 4140 -u 2102 -g -1 -r 80,81 -r 82 -w").unwrap();
        let request = args.request();
        assert_eq!(request.proxy_gid, -1);
        assert_eq!(request.ports_to_redirect, [80, 81, 82]);
        assert!(request.ipv6 && args.use_wait_flag && !args.simulate);
        assert_eq!((args.log_level, args.log_format.as_str()), (Level::INFO, "plain"));
    }

    #[test]
    fn booleans_are_gos() {
        assert!(parse("--simulate --ipv6=T").is_ok_and(|args| args.simulate && args.ipv6));
        assert!(parse("--ipv6=0 --simulate=false").is_ok_and(|args| !args.simulate && !args.ipv6));
        assert!(parse("--ipv6=yes").is_err());
        assert!(parse("--log-level loud").is_err());
    }

    #[test]
    fn empty_lists_have_no_entries() {
        assert_eq!(entries(&[String::new()]), Vec::<String>::new());
        assert_eq!(entries(&["1,2".into(), "3".into()]), ["1", "2", "3"]);
    }
}
