//! `homarus-demo`: the sample applications in one program.
//!
//! Also known by the names that their containers' programs have (`emojivoto-vote-bot`, ...): called by such a name, it
//! is that program, so a manifest with that `command` needs only a link.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use homarus_demo::emojivoto::{emoji, vote_bot, voting, web};
use homarus_demo::serving::{self, Stop};
use homarus_demo::steady::{load, server};
use tracing_subscriber::EnvFilter;

/// Sample applications: plain programs that know nothing of a mesh.
#[derive(Debug, Parser)]
#[command(name = "homarus-demo", version)]
struct Cli {
    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Emojivoto's web page: HTTP, asks `emoji` and `voting`
    #[command(name = "emojivoto-web", alias = "web")]
    Web(WebArgs),
    /// Emojivoto's catalog: gRPC
    #[command(name = "emojivoto-emoji-svc", alias = "emoji")]
    Emoji(GrpcArgs),
    /// Emojivoto's ballot: gRPC; votes for the doughnut fail
    #[command(name = "emojivoto-voting-svc", alias = "voting")]
    Voting(VotingArgs),
    /// Emojivoto's most eager user
    #[command(name = "emojivoto-vote-bot", alias = "vote-bot")]
    VoteBot(VoteBotArgs),
    /// A server that ends in the way that it is told to: HTTP/1.1 and HTTP/2
    SteadyServer(SteadyServerArgs),
    /// A client that asks at a steady rate, and reports what failed, as JSON
    SteadyLoad(SteadyLoadArgs),
}

#[derive(Debug, Args)]
struct SteadyServerArgs {
    /// The port to serve on
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// How long every answer takes, like 20ms
    #[arg(long, default_value = "20ms", value_parser = duration)]
    takes: Duration,
    /// How long it goes on as ever after SIGTERM, like 5s
    #[arg(long, default_value = "0s", value_parser = duration)]
    drains: Duration,
}

#[derive(Debug, Args)]
struct SteadyLoadArgs {
    /// What to ask for
    url: http::Uri,
    /// Requests a second
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=load::MAX_RATE as i64))]
    rate: u32,
    /// How long, like 90s
    #[arg(long, default_value = "90s", value_parser = duration)]
    lasts: Duration,
    /// HTTP/2, on one connection
    #[arg(long)]
    http2: bool,
    /// An address of this machine that servers reach
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    address: std::net::IpAddr,
}

#[derive(Debug, Args)]
struct WebArgs {
    /// The port to serve on
    #[arg(long, env = "WEB_PORT", default_value_t = 8080)]
    port: u16,
    /// Where the catalog is, a name and a port
    #[arg(long, env = "EMOJISVC_HOST")]
    emoji_host: String,
    /// Where the ballot is, a name and a port
    #[arg(long, env = "VOTINGSVC_HOST")]
    voting_host: String,
    /// Shown above the page
    #[arg(long, env = "MESSAGE_OF_THE_DAY", default_value = "")]
    message: String,
}

#[derive(Debug, Args)]
struct GrpcArgs {
    /// The port to serve gRPC on
    #[arg(long, env = "GRPC_PORT", default_value_t = 8080)]
    grpc_port: u16,
    /// The port to serve metrics and readiness on
    #[arg(long, env = "PROM_PORT", default_value_t = 8801)]
    prom_port: u16,
}

#[derive(Debug, Args)]
struct VotingArgs {
    #[command(flatten)]
    ports: GrpcArgs,
    /// The share of votes for the doughnut that fail, 0 to 1
    #[arg(long, env = "FAILURE_RATE", default_value_t = 1.0, value_parser = share)]
    failure_rate: f64,
    /// How long every vote takes, like 150ms or 2s
    #[arg(long, env = "ARTIFICIAL_DELAY", default_value = "0ms", value_parser = duration)]
    delay: Duration,
}

#[derive(Debug, Args)]
struct VoteBotArgs {
    /// Where the web page is, a name and a port
    #[arg(long, env = "WEB_HOST")]
    web_host: String,
    /// The Host header, where it differs from the address
    #[arg(long, env = "HOST_OVERRIDE")]
    host_override: Option<String>,
    /// Votes a second
    #[arg(long, env = "REQUEST_RATE", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=vote_bot::MAX_RATE as i64))]
    rate: u32,
    /// When to end by itself, like 600s; by default never
    #[arg(long, env = "TTL", value_parser = duration)]
    ttl: Option<Duration>,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let scale_ms = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("must end in ms, s, m or h".to_owned()),
    };
    let number: u32 = number.parse().map_err(|error| format!("must be a number and a unit, like 150ms: {error}"))?;
    Ok(Duration::from_millis(u64::from(number) * scale_ms))
}

/// The arguments, with a program name that is a sample's turned into its subcommand.
fn named(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    if let Some(name) = name.filter(|name| name.starts_with("emojivoto-")).map(OsString::from) {
        args.insert(1, name);
    }
    args
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(named(std::env::args_os().collect()));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr).init();
    match run(cli.program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(program: Program) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = Stop::on_signals()?;
        match program {
            Program::Web(args) => web(args, stop).await?,
            Program::Emoji(ports) => {
                let service = emoji::EmojiService::default();
                let scrape = service.scrape();
                grpc(ports, service, scrape, stop).await?;
            }
            Program::Voting(args) => {
                let faults = voting::Faults { failure_rate: args.failure_rate, delay: args.delay };
                let service = voting::VotingService::new(faults);
                let scrape = service.scrape();
                grpc(args.ports, service, scrape, stop).await?;
            }
            Program::VoteBot(args) => {
                let VoteBotArgs { web_host, host_override, rate, ttl } = args;
                let host_override = host_override.filter(|host| !host.is_empty());
                tracing::info!(%web_host, rate, "voting");
                vote_bot::run(vote_bot::Plan { web_host, host_override, rate, ttl }, stop).await;
            }
            Program::SteadyServer(SteadyServerArgs { port, takes, drains }) => {
                let listener = serving::listen(port).await?;
                server::run(listener, server::Manner { takes, drains }, stop).await?;
            }
            Program::SteadyLoad(SteadyLoadArgs { url, rate, lasts, http2, address }) => {
                let report = load::begin(load::Plan { url, rate, lasts, http2, address }, stop.clone()).await?.run(stop).await;
                println!("{}", serde_json::to_string(&report)?);
            }
        }
        tracing::info!("ended");
        Ok(())
    })
}

async fn web(args: WebArgs, stop: Stop) -> anyhow::Result<()> {
    let app = web::Web::new(&args.emoji_host, &args.voting_host)?.router(&args.message);
    let listener = serving::listen(args.port).await?;
    tracing::info!(port = args.port, emoji = %args.emoji_host, voting = %args.voting_host, "serving HTTP");
    Ok(serving::serve_http(listener, app, stop).await?)
}

async fn grpc<S: serving::GrpcService>(args: GrpcArgs, service: S, scrape: axum::Router, stop: Stop) -> anyhow::Result<()> {
    let listener = serving::listen(args.grpc_port).await?;
    let metrics = serving::listen(args.prom_port).await?;
    tracing::info!(port = args.grpc_port, metrics_port = args.prom_port, "serving gRPC");
    tokio::try_join!(serving::serve_grpc(listener, service, stop.clone()), serving::serve_http(metrics, scrape, stop))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_container_program_name_chooses_the_subcommand() {
        assert_eq!(
            named(args(&["/usr/local/bin/emojivoto-vote-bot", "--rate", "5"])),
            args(&["/usr/local/bin/emojivoto-vote-bot", "emojivoto-vote-bot", "--rate", "5"]),
        );
        assert_eq!(named(args(&["homarus-demo", "web"])), args(&["homarus-demo", "web"]));
        assert!(named(vec![]).is_empty());
    }

    #[test]
    fn every_documented_name_is_a_subcommand() {
        for name in ["emojivoto-web", "web"] {
            Cli::try_parse_from(["homarus-demo", name, "--emoji-host", "e:1", "--voting-host", "v:1"]).unwrap();
        }
        for name in ["emoji", "emojivoto-emoji-svc", "voting", "emojivoto-voting-svc"] {
            Cli::try_parse_from(["homarus-demo", name]).unwrap();
        }
        for name in ["vote-bot", "emojivoto-vote-bot"] {
            Cli::try_parse_from(["homarus-demo", name, "--web-host", "w:1"]).unwrap();
        }
    }

    #[test]
    fn durations_and_shares_have_their_units_and_bounds() {
        assert_eq!(duration("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("60"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("3h"), Ok(Duration::from_secs(10_800)));
        for wrong in ["", "ms", "5 parsecs", "-1s", "1.5s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(share("0.2"), Ok(0.2));
        for wrong in ["", "1.1", "-0.1", "NaN"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_out_of_bounds_is_refused() {
        let rate = |rate| Cli::try_parse_from(["homarus-demo", "vote-bot", "--web-host", "w:1", "--rate", rate]);
        assert!(rate("10000").is_ok());
        assert!(rate("0").is_err());
        assert!(rate("10001").is_err());
    }
}
