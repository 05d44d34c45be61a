//! Questions of the command line, answered by the daemon on this node.
//!
//! Exit codes: 0 answered and fine; 1 answered, and the answer is bad; 2 wrong usage; 3 the daemon could not be reached.
#![expect(clippy::print_stdout, reason = "this is the command line: it prints")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{Table, presets};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::args::{BgpQuestion, Output, SocketArgs, ValidateArgs};
use crate::inspect::wire::{self, inspect_client::InspectClient};
use crate::validate;

const LIMIT: Duration = Duration::from_secs(10);
const UNREACHED: u8 = 3;
const WRONG_USAGE: u8 = 2;

/// `routed status`.
pub async fn status(args: &SocketArgs) -> ExitCode {
    answer(async {
        let mut client = connect(&args.socket).await?;
        let reply = client.status(wire::StatusRequest {}).await?.into_inner();
        match args.output {
            Output::Json => print_json("routed.status/v1", &status_json(&reply)),
            Output::Table => print_status(&reply),
        }
        Ok(reply.ready)
    })
    .await
}

/// `routed validate`.
pub fn validate(args: &ValidateArgs) -> ExitCode {
    let outcome = match validate::files::judge(&args.filename) {
        Ok(outcome) => outcome,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(WRONG_USAGE);
        }
    };
    match args.output {
        Output::Json => println!("{:#}", validate::json(&outcome)),
        Output::Table => print!("{}", validate::text(&outcome)),
    }
    if outcome.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// `routed bgp …`.
pub async fn bgp(args: &SocketArgs, question: &BgpQuestion) -> ExitCode {
    answer(async {
        let mut client = connect(&args.socket).await?;
        match question {
            BgpQuestion::Peers => {
                let reply = client.peers(wire::PeersRequest {}).await?.into_inner();
                match args.output {
                    Output::Json => print_json("routed.bgp.peers/v1", &peers_json(&reply)),
                    Output::Table => print_peers(&reply),
                }
                Ok(reply.peers.iter().all(|peer| peer.state == "Established"))
            }
            BgpQuestion::Routes { prefix } => {
                let within = prefix.map(|prefix| prefix.to_string()).unwrap_or_default();
                let reply = client
                    .routes(wire::RoutesRequest { within })
                    .await?
                    .into_inner();
                match args.output {
                    Output::Json => print_json("routed.bgp.routes/v1", &routes_json(&reply)),
                    Output::Table => print_routes(&reply),
                }
                Ok(true)
            }
            BgpQuestion::Explain { prefix } => {
                let prefix = prefix.to_string();
                let reply = client
                    .explain(wire::ExplainRequest { prefix })
                    .await?
                    .into_inner();
                println!("{}", reply.text.trim_end());
                Ok(true)
            }
        }
    })
    .await
}

async fn answer(question: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    match tokio::time::timeout(LIMIT, question).await {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            complain(&format!("{error:#}"));
            ExitCode::from(UNREACHED)
        }
        Err(_elapsed) => {
            complain(&format!("no answer within {} s", LIMIT.as_secs()));
            ExitCode::from(UNREACHED)
        }
    }
}

#[expect(clippy::print_stderr, reason = "this is the command line: it prints")]
fn complain(what: &str) {
    eprintln!("routed: {what}");
}

async fn connect(socket: &Path) -> anyhow::Result<InspectClient<Channel>> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://daemon")
        .connect_with_connector(connector)
        .await
        .with_context(|| {
            format!(
                "no daemon answers on {}; is routed running on this node?",
                socket.display()
            )
        })?;
    Ok(InspectClient::new(channel))
}

fn print_json(schema: &str, value: &serde_json::Value) {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        object.insert("schema".to_owned(), schema.into());
    }
    println!("{value:#}");
}

fn status_json(reply: &wire::StatusReply) -> serde_json::Value {
    serde_json::json!({
        "version": reply.version,
        "node": reply.node,
        "ready": reply.ready,
        "address": reply.address,
        "uptimeSeconds": reply.uptime_seconds,
        "checks": reply.checks.iter().map(|check| serde_json::json!({
            "name": check.name, "ok": check.ok, "sinceSeconds": check.since_seconds, "reason": check.reason,
        })).collect::<Vec<_>>(),
        "counts": reply.counts.iter().map(|count| (count.name.clone(), count.value.into())).collect::<serde_json::Map<_, _>>(),
        "problems": reply.problems,
    })
}

fn peers_json(reply: &wire::PeersReply) -> serde_json::Value {
    serde_json::json!({
        "running": reply.running,
        "peers": reply.peers.iter().map(|peer| serde_json::json!({
            "peer": peer.peer, "as": peer.as_number, "type": peer.r#type, "state": peer.state,
            "sinceSeconds": peer.since_seconds, "received": peer.received, "sent": peer.sent,
            "restart": peer.restart, "why": peer.why,
        })).collect::<Vec<_>>(),
    })
}

fn routes_json(reply: &wire::RoutesReply) -> serde_json::Value {
    serde_json::json!({
        "routes": reply.routes.iter().map(|route| serde_json::json!({
            "prefix": route.prefix, "via": route.via, "from": route.from, "asPath": route.as_path,
            "best": route.best, "stale": route.stale,
        })).collect::<Vec<_>>(),
    })
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().copied());
    table
}

fn print_status(reply: &wire::StatusReply) {
    let ready = if reply.ready { "ready" } else { "NOT READY" };
    let age = ago(reply.uptime_seconds);
    println!(
        "Margay {} · node {} · {} · {ready} · up {age}",
        reply.version, reply.node, reply.address
    );
    let counts: Vec<String> = reply
        .counts
        .iter()
        .map(|count| format!("{} {}", count.value, count.name))
        .collect();
    println!("{}", counts.join(" · "));
    let mut table = table(&["CHECK", "OK", "SINCE", "WHY"]);
    for check in &reply.checks {
        table.add_row([
            check.name.as_str(),
            yes(check.ok),
            &ago(check.since_seconds),
            dash(&check.reason),
        ]);
    }
    println!("{table}");
    for problem in &reply.problems {
        println!("problem: {problem}");
    }
}

fn print_peers(reply: &wire::PeersReply) {
    if !reply.running {
        println!("BGP does not run on this node: there is no BGPPeer and no BGPConfiguration");
        return;
    }
    let mut table = table(&[
        "PEER", "AS", "TYPE", "STATE", "SINCE", "RX", "TX", "RESTART", "WHY",
    ]);
    for peer in &reply.peers {
        table.add_row([
            peer.peer.as_str(),
            &peer.as_number.to_string(),
            &peer.r#type,
            &peer.state,
            &ago(peer.since_seconds),
            &peer.received.to_string(),
            &peer.sent.to_string(),
            &peer.restart,
            dash(&peer.why),
        ]);
    }
    println!("{table}");
}

fn print_routes(reply: &wire::RoutesReply) {
    let mut table = table(&["PREFIX", "VIA", "FROM", "PATH", "BEST", "STALE"]);
    for route in &reply.routes {
        table.add_row([
            route.prefix.as_str(),
            dash(&route.via),
            &route.from,
            dash(&route.as_path),
            yes(route.best),
            yes(route.stale),
        ]);
    }
    println!("{table}");
}

fn yes(good: bool) -> &'static str {
    if good { "yes" } else { "no" }
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// An age as people say it: 40s, 3m, 5h, 12d.
fn ago(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let ages = [(40, "40s"), (180, "3m"), (18_000, "5h"), (1_036_800, "12d")];
        for (seconds, text) in ages {
            assert_eq!(ago(seconds), text);
        }
    }
}
