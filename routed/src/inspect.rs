//! Questions to the daemon over `inspect.sock`: the server, and the client the command line uses.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::speaker::{PeerStatus, RestartStatus, RouteQuery, RouteRow, RouteSource, RouteView};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::health::Health;
use crate::world::WorldHandle;
use wire::inspect_server::{Inspect, InspectServer};

/// Messages and services of `proto/inspect.proto`.
#[expect(
    missing_docs,
    clippy::pedantic,
    clippy::clone_on_ref_ptr,
    reason = "generated code"
)]
#[allow(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod wire {
    tonic::include_proto!("margay.inspect.v1");
}

const LIMIT: Duration = Duration::from_secs(5);
/// Rows of one answer of `bgp routes`; a person reads no more.
const ROWS: usize = 5_000;

/// What the server answers from.
#[derive(Debug)]
pub struct Inspector {
    /// This node.
    pub node: String,
    /// Since when the daemon runs.
    pub started: Instant,
    /// Readiness.
    pub health: Arc<Health>,
    /// The World's task.
    pub world: WorldHandle,
    /// The speaker, while BGP runs.
    pub bgp: watch::Receiver<Option<bgp::io::Handle>>,
}

/// Serves questions on `socket` until told to stop. The socket is bound under another name and renamed, so nobody meets a half-made
/// one; only root may open it.
///
/// # Errors
/// The operating system's, with the path.
pub async fn serve(
    socket: &Path,
    inspector: Inspector,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = bind(socket)?;
    tonic::transport::Server::builder()
        .timeout(LIMIT)
        .add_service(InspectServer::new(inspector))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            // An error means the sender is gone, which is the same news.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await?;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a socket is a file: replaced by rename"
)]
fn bind(socket: &Path) -> anyhow::Result<UnixListener> {
    use anyhow::Context as _;
    let fresh = socket.with_extension("sock.new");
    match std::fs::remove_file(&fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot remove {}", fresh.display()));
        }
    }
    let listener =
        UnixListener::bind(&fresh).with_context(|| format!("cannot bind {}", fresh.display()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", fresh.display()))?;
    std::fs::rename(&fresh, socket)
        .with_context(|| format!("cannot put {} in place", socket.display()))?;
    Ok(listener)
}

#[tonic::async_trait]
impl Inspect for Inspector {
    async fn status(
        &self,
        _request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusReply>, Status> {
        let now = crate::clock::now();
        let picture = self.world.picture(LIMIT / 2).await;
        let mut problems = Vec::new();
        if picture.is_none() {
            problems.push("the reconcile task does not answer".to_owned());
        }
        let picture = picture.unwrap_or_default();
        problems.extend(picture.problems);
        if !picture.unsynced.is_empty() {
            problems.push(format!(
                "waiting for the first list of {}",
                picture.unsynced.join(", ")
            ));
        }
        let checks = self.health.checks();
        Ok(Response::new(wire::StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            ready: self.health.ready(),
            checks: checks
                .into_iter()
                .map(|(name, check)| wire::Check {
                    name: name.to_owned(),
                    ok: check.ok,
                    since_seconds: now.saturating_duration_since(check.since).as_secs(),
                    reason: check.reason,
                })
                .collect(),
            counts: picture
                .counts
                .into_iter()
                .map(|(name, value)| wire::Count {
                    name: name.to_owned(),
                    value,
                })
                .collect(),
            problems,
            address: picture.address.unwrap_or_default(),
            uptime_seconds: now.saturating_duration_since(self.started).as_secs(),
        }))
    }

    async fn peers(
        &self,
        _request: Request<wire::PeersRequest>,
    ) -> Result<Response<wire::PeersReply>, Status> {
        let speaker = self.bgp.borrow().clone();
        let Some(speaker) = speaker else {
            return Ok(Response::new(wire::PeersReply::default()));
        };
        let now = crate::clock::now();
        let table = Arc::clone(&speaker.peers().borrow());
        let peers = table
            .peers
            .iter()
            .map(|(key, status)| peer(key.to_string(), status, now))
            .collect();
        Ok(Response::new(wire::PeersReply {
            running: true,
            peers,
        }))
    }

    async fn routes(
        &self,
        request: Request<wire::RoutesRequest>,
    ) -> Result<Response<wire::RoutesReply>, Status> {
        let within = match request.into_inner().within.as_str() {
            "" => None,
            text => Some(parse(text)?),
        };
        let query = RouteQuery {
            within,
            view: RouteView::All,
            limit: ROWS,
            ..RouteQuery::default()
        };
        let rows = self
            .speaker()?
            .routes(query)
            .await
            .map_err(|gone| Status::unavailable(gone.to_string()))?;
        let routes = rows.iter().map(route).collect();
        Ok(Response::new(wire::RoutesReply { routes }))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainReply>, Status> {
        let prefix = parse(&request.into_inner().prefix)?;
        let explained = self
            .speaker()?
            .explain(prefix)
            .await
            .map_err(|gone| Status::unavailable(gone.to_string()))?;
        let text = explained.to_string();
        Ok(Response::new(wire::ExplainReply { text }))
    }
}

impl Inspector {
    fn speaker(&self) -> Result<bgp::io::Handle, Status> {
        let speaker = self.bgp.borrow().clone();
        speaker.ok_or_else(|| Status::failed_precondition("BGP does not run on this node: there is no BGPPeer and no BGPConfiguration, and --bgp is not set"))
    }
}

fn parse(text: &str) -> Result<ipnet::IpNet, Status> {
    text.parse().map_err(|_not_a_prefix| {
        Status::invalid_argument(format!("{text:?} is not a prefix, such as 10.244.7.0/26"))
    })
}

fn peer(name: String, status: &PeerStatus, now: Instant) -> wire::Peer {
    let families = status.families.iter();
    let (received, sent) = families.fold((0, 0), |(received, sent), (_, family)| {
        (received + family.accepted as u64, sent + family.sent as u64)
    });
    let why = match &status.last_down {
        Some((reason, at)) if status.state != bgp::session::State::Established => {
            format!(
                "{reason}, {} s ago",
                now.saturating_duration_since(*at).as_secs()
            )
        }
        Some(_) | None => String::new(),
    };
    wire::Peer {
        peer: name,
        as_number: status.remote_as.0,
        r#type: if status.external { "eBGP" } else { "iBGP" }.to_owned(),
        state: status.state.to_string(),
        since_seconds: now.saturating_duration_since(status.since).as_secs(),
        received,
        sent,
        restart: restart(status, &status.restart),
        why,
    }
}

/// What a restart of this daemon does towards the neighbour.
fn restart(status: &PeerStatus, restart: &RestartStatus) -> String {
    if status.state != bgp::session::State::Established {
        return "-".to_owned();
    }
    if status.negotiated == restart.peer_keeps {
        "safe"
    } else {
        "loses"
    }
    .to_owned()
}

fn route(row: &RouteRow) -> wire::Route {
    let from = match &row.source {
        RouteSource::Local => "this node".to_owned(),
        RouteSource::Peer { key, .. } => key.to_string(),
    };
    wire::Route {
        prefix: row.prefix.to_string(),
        via: row
            .next_hop
            .map(|address| address.to_string())
            .unwrap_or_default(),
        from,
        as_path: row.attributes.as_path.to_string(),
        best: row.best,
        stale: row.stale,
    }
}
