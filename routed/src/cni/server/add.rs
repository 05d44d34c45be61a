//! ADD: intent, address, link, policy and route, answer; or everything undone.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::ipam::Time;
use cni_plugin::spec::{Code, Failure, Interface, Ip, Outcome, Route};
use ipnet::IpNet;
use tokio::time::{Instant, sleep_until};

use super::{Key, Server};
use crate::clock;
use crate::cni::ask::{self, Owner};
use crate::cni::call::Call;
use crate::cni::cancel::{Cancel, Trip};
use crate::cni::record::{Record, Sandbox, State};
use crate::cni::seams::{Plumbed, Plumbing, Refusal, Unplumbed};
use crate::cni::{names, sandbox as namespaces};
use crate::world::{CniSettings, PodView, Unprogrammed};

/// How long a pod may take to come through the watch before the API server is asked.
const POD_WATCH: Duration = Duration::from_millis(500);
/// How often the World is asked meanwhile.
const POD_POLL: Duration = Duration::from_millis(20);
/// How long one GET may take.
const POD_FETCH: Duration = Duration::from_secs(5);
/// How long IPAM may take: a leader that frees a block on request needs 5 s.
const ASSIGN: Duration = Duration::from_secs(15);
/// How long the kernel may take; a MAC that is set again needs 5 s.
const ATTACH: Duration = Duration::from_secs(15);
/// How long the sandbox's end may take to wake up once the host end is up; usually it has.
const SETTLE: Duration = Duration::from_secs(2);

/// How far an ADD came: what has to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Nothing,
    Noted,
    Asked,
    Plumbed,
    Programmed,
}

/// An ADD under way.
struct Work {
    record: Record,
    reached: Reached,
}

impl Server {
    /// Attaches; answers the record and what to print. On any failure nothing is left but, at worst, an owed release.
    pub(super) async fn add(
        &self,
        call: &Call,
        sandbox: Option<OwnedFd>,
        trip: &Trip,
        cancel: &Cancel,
    ) -> Result<(Record, Vec<u8>), Failure> {
        let sandbox = sandbox.ok_or_else(|| gone(&call.environment.netns))?;
        let identity = self.identify(&sandbox, &call.environment.netns)?;
        self.check_ready()?;
        cancel.unless(self.until_compared()).await??;
        let turn = cancel
            .unless(self.locks.enter(Key::Attachment(call.id.clone())))
            .await?;
        turn.interruptible(trip);
        self.clear_own_past(call, identity).await?;
        let view = self.timed("pod", self.find_pod(call, cancel)).await?;
        let settings = self.rooms.cluster.settings();
        let pod = call.pod_ref();
        let host = Self::host_interface(&settings.interface_prefix, pod.as_ref(), call)?;
        let _host_turn = cancel
            .unless(self.locks.enter(Key::Host(Arc::clone(&host))))
            .await?;
        self.clear_name(call, &host).await?;
        let mut work = Work {
            record: self.new_record(call, identity, host, view.as_ref()),
            reached: Reached::Nothing,
        };
        match self
            .attach(call, view.as_ref(), sandbox, cancel, &mut work)
            .await
        {
            Ok(stdout) => {
                self.served.store(true, Ordering::Relaxed);
                Ok((work.record, stdout))
            }
            Err(failure) => {
                self.roll_back(work).await;
                Err(failure)
            }
        }
    }

    /// Whose namespace the descriptor is; never the node's own.
    fn identify(&self, sandbox: &OwnedFd, path: &str) -> Result<Sandbox, Failure> {
        let identity = namespaces::identify(sandbox).map_err(|error| {
            Failure::new(
                Code::InvalidEnvironment,
                format!("CNI_NETNS {path} is not a network namespace"),
            )
            .because(error)
        })?;
        if identity == self.own {
            return Err(Failure::new(
                Code::HostNamespace,
                format!("CNI_NETNS {path} is the node's own network namespace"),
            ));
        }
        Ok(identity)
    }

    fn check_ready(&self) -> Result<(), Failure> {
        let state = self.rooms.cluster.sync();
        if state.in_sync {
            return Ok(());
        }
        Err(Failure::new(
            Code::TryAgainLater,
            "the Margay daemon of this node is not in sync with the API server yet: the call can be repeated",
        )
        .because(state.reason))
    }

    /// A record of the same key: alive means the runtime repeats itself, anything else is cleaned first.
    async fn clear_own_past(&self, call: &Call, identity: Sandbox) -> Result<(), Failure> {
        let Some(past) = self.book.find(&call.id) else {
            return Ok(());
        };
        if past.state == State::Attached && past.sandbox.is_none_or(|recorded| recorded == identity)
        {
            return Err(exists(format!(
                "{} is attached already: call DEL before another ADD",
                call.id
            )));
        }
        self.tear_down(past).await
    }

    /// Whoever holds the host interface's name: a vanished sandbox is removed, an older one of the same pod gives way.
    async fn clear_name(&self, call: &Call, host: &Arc<str>) -> Result<(), Failure> {
        let Some(mut holder) = self.book.holder(host, &call.id) else {
            return Ok(());
        };
        if self.sandbox_is_gone(&holder).await {
            return self.tear_down(holder).await;
        }
        if holder.pod.is_some() && holder.pod == call.pod_ref() {
            tracing::info!(older = %holder.id, newer = %call.id, "a newer sandbox of the pod takes the interface");
            self.remove_interface(&holder).await?;
            holder.state = State::Replaced;
            self.book.note(&holder);
            return Ok(());
        }
        Err(exists(format!(
            "the interface {host} belongs to {}, which is alive",
            holder.id
        )))
    }

    /// The pod and its namespace: from the watch, else from the API server; never a predecessor of the same name.
    async fn find_pod(&self, call: &Call, cancel: &Cancel) -> Result<Option<PodView>, Failure> {
        let (Some(pod), Some(wanted)) = (call.pod_ref(), &call.pod) else {
            return Ok(None);
        };
        let is_it = |view: &PodView| {
            wanted
                .uid
                .as_deref()
                .is_none_or(|uid| uid == &*view.pod.uid)
        };
        let give_up = Instant::now() + POD_WATCH;
        let watched = loop {
            let seen = cancel.unless(self.rooms.cluster.pod(pod.clone())).await?;
            if let Some(view) = seen.filter(&is_it) {
                break Some(view);
            }
            if Instant::now() >= give_up {
                break None;
            }
            cancel
                .unless(sleep_until(Instant::now() + POD_POLL))
                .await?;
        };
        let view = match watched {
            Some(view) => view,
            None => self.fetch_pod(&pod, &is_it, cancel).await?,
        };
        if view.pod.host_network {
            return Err(Failure::new(
                Code::InvalidConfig,
                format!(
                    "pod {pod} uses the node's network: a runtime must not call a plugin for it"
                ),
            ));
        }
        Ok(Some(view))
    }

    async fn fetch_pod(
        &self,
        pod: &model::PodRef,
        is_it: &impl Fn(&PodView) -> bool,
        cancel: &Cancel,
    ) -> Result<PodView, Failure> {
        let later = |why: String| {
            Failure::new(
                Code::TryAgainLater,
                format!("pod {pod} is not known here yet: repeat the call"),
            )
            .because(why)
        };
        let asked = tokio::time::timeout(POD_FETCH, self.rooms.cluster.fetch_pod(pod.clone()));
        match cancel.unless(asked).await? {
            Ok(Ok(Some(view))) if is_it(&view) => Ok(view),
            Ok(Ok(Some(view))) => Err(later(format!(
                "the API server has it with the uid {}",
                view.pod.uid
            ))),
            Ok(Ok(None)) => Err(later("the API server does not have it".into())),
            Ok(Err(why)) => Err(later(why)),
            Err(_elapsed) => Err(later("the API server did not answer in time".into())),
        }
    }

    fn new_record(
        &self,
        call: &Call,
        identity: Sandbox,
        host: Arc<str>,
        view: Option<&PodView>,
    ) -> Record {
        Record {
            serial: self.book.next_serial(),
            id: call.id.clone(),
            pod: call.pod_ref(),
            pod_uid: view.map(|view| Arc::clone(&view.pod.uid)),
            netns: call.environment.netns.as_str().into(),
            sandbox: Some(identity),
            host,
            ifindex: 0,
            mac: None,
            handle: names::handle(&call.id).into(),
            claims: Vec::new(),
            labels: call.config.labels.clone(),
            state: State::Intent,
            since: u64::try_from(clock::unix_seconds()).unwrap_or(0),
        }
    }

    /// The steps that make something, in order; `work` says how far they came.
    async fn attach(
        &self,
        call: &Call,
        view: Option<&PodView>,
        sandbox: OwnedFd,
        cancel: &Cancel,
        work: &mut Work,
    ) -> Result<Vec<u8>, Failure> {
        let settings = self.rooms.cluster.settings();
        let mtu = call
            .config
            .mtu
            .or(Some(settings.mtu).filter(|mtu| *mtu > 0))
            .ok_or_else(|| {
                Failure::new(
                    Code::TryAgainLater,
                    "the MTU of this node's uplink is not known yet: repeat the call",
                )
            })?;
        let owner = Owner {
            handle: Arc::clone(&work.record.handle),
            node: &settings.node,
            now: Time::from_nanos(clock::unix_nanos()),
            supersedes: self.older_handles(&work.record),
        };
        let ask = ask::ask(call, view, settings.families, owner)?;
        self.enter(work, Reached::Noted)?;

        work.reached = Reached::Asked;
        let assigning = cancel.whole(ASSIGN, self.rooms.addresses.assign(ask));
        let claims = self.timed("address", assigning).await?;
        work.record.claims = claims.map_err(|why| refusal(&why))?;
        self.enter(work, Reached::Asked)?;

        let again = sandbox
            .try_clone()
            .map_err(|error| gone(&call.environment.netns).because(error))?;
        let plumbed = self
            .plumb(call, &settings, mtu, sandbox, cancel, work)
            .await?;

        work.reached = Reached::Programmed;
        self.timed("program", self.program(call, &work.record, cancel))
            .await?;
        if call.config.policy_timeout.is_some() {
            self.timed("wake", self.wake(call, again, cancel)).await?;
        }
        work.record.state = State::Attached;
        self.enter(work, Reached::Programmed)?;
        cancel.check()?;
        let outcome = outcome(call, &work.record, plumbed);
        Ok(outcome.render(call.config.version).to_string().into_bytes())
    }

    /// Both ends of the link, the host's still down.
    async fn plumb(
        &self,
        call: &Call,
        settings: &CniSettings,
        mtu: u32,
        sandbox: OwnedFd,
        cancel: &Cancel,
        work: &mut Work,
    ) -> Result<Plumbed, Failure> {
        let plumbing = Plumbing {
            host: Arc::clone(&work.record.host),
            ifname: Arc::clone(&work.record.id.ifname),
            alias: work.record.alias(),
            addresses: work
                .record
                .claims
                .iter()
                .map(|claim| claim.address)
                .collect(),
            mtu,
            forwarding: call.config.forwarding || settings.ip_forwarding,
            default_route: call.config.default_route,
        };
        let attaching = cancel.whole(ATTACH, self.rooms.kernel.attach(plumbing, sandbox));
        let plumbed = match self.timed("attach", attaching).await {
            Ok(plumbed) => plumbed.map_err(|error| unplumbed(error, &call.environment.netns))?,
            Err(failure) => {
                // Abandoned half way, perhaps: whatever bears the name goes.
                work.reached = Reached::Plumbed;
                return Err(failure);
            }
        };
        work.reached = Reached::Plumbed;
        work.record.ifindex = plumbed.ifindex;
        work.record.mac = Some(plumbed.mac);
        Ok(plumbed)
    }

    /// The container's first packet must not be dropped by a link that is not awake yet.
    async fn wake(&self, call: &Call, sandbox: OwnedFd, cancel: &Cancel) -> Result<(), Failure> {
        let settling = self
            .rooms
            .kernel
            .settled(sandbox, Arc::clone(&call.id.ifname), SETTLE);
        match cancel.unless(settling).await? {
            Ok(true) => Ok(()),
            Ok(false) => {
                tracing::warn!("link is slow to wake up: the first packets may be lost");
                Ok(())
            }
            Err(why) => Err(gone(&call.environment.netns).because(why)),
        }
    }

    /// Handles of sandboxes of the same pod that lost their interface already.
    fn older_handles(&self, record: &Record) -> BTreeSet<String> {
        let older = |other: &Record| {
            record.pod.is_some() && other.pod == record.pod && !other.holds_interface()
        };
        self.book
            .all()
            .into_iter()
            .filter(older)
            .map(|other| other.handle.to_string())
            .collect()
    }

    /// Route and policy of the endpoint, in the kernel before the answer.
    async fn program(&self, call: &Call, record: &Record, cancel: &Cancel) -> Result<(), Failure> {
        let Some(bound) = call.config.policy_timeout else {
            let (cluster, endpoint) = (Arc::clone(&self.rooms.cluster), record.endpoint());
            tokio::spawn(async move {
                let id = endpoint.id.clone();
                if let Err(error) = cluster.program(endpoint).await {
                    tracing::warn!(attachment = %id, %error, "route or policy is late");
                }
            });
            return Ok(());
        };
        let programmed = tokio::time::timeout(bound, self.rooms.cluster.program(record.endpoint()));
        match cancel.unless(programmed).await? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ Unprogrammed::Refused { .. })) => Err(Failure::new(
                Code::Internal,
                "the kernel refused the route or policy of this container",
            )
            .because(error)),
            Ok(Err(error @ (Unprogrammed::NotInSync(_) | Unprogrammed::Stopping))) => {
                Err(not_in_time().because(error))
            }
            Err(_elapsed) => Err(not_in_time().because(format!(
                "policy_setup_timeout_seconds is {}",
                bound.as_secs()
            ))),
        }
    }

    /// Journals how far it came; an ADD whose record would be lost is not made.
    fn enter(&self, work: &mut Work, reached: Reached) -> Result<(), Failure> {
        work.reached = work.reached.max(reached);
        self.book.put(&work.record).map_err(|error| {
            Failure::new(
                Code::Io,
                "the daemon's journal cannot be written: free or remount its directory",
            )
            .because(error)
        })
    }

    async fn roll_back(&self, work: Work) {
        self.metrics.rolled_back();
        match work.reached {
            Reached::Nothing => {}
            Reached::Noted => self.book.close(work.record.serial),
            Reached::Asked => self.pay(work.record).await,
            Reached::Plumbed | Reached::Programmed => self.tear_down_or_say(work.record).await,
        }
    }
}

/// What ADD prints: both ends, an address per family, and Calico's routes, which repeat the addresses.
fn outcome(call: &Call, record: &Record, plumbed: Plumbed) -> Outcome {
    let nets = || record.claims.iter().map(|claim| IpNet::from(claim.address));
    Outcome {
        interfaces: vec![
            Interface {
                name: record.host.to_string(),
                ..Interface::default()
            },
            Interface {
                name: record.id.ifname.to_string(),
                mac: Some(plumbed.mac.to_string()),
                mtu: Some(plumbed.mtu),
                sandbox: Some(record.netns.to_string()),
            },
        ],
        ips: nets()
            .map(|address| Ip {
                address,
                interface: Some(1),
                gateway: None,
            })
            .collect(),
        routes: nets().map(|dst| Route { dst, gw: None }).collect(),
        dns: call.config.dns.clone(),
    }
}

fn refusal(refusal: &Refusal) -> Failure {
    let code = match refusal {
        Refusal::Exhausted(_) => Code::NoAddress,
        Refusal::Request(_) => Code::RequestRefused,
        Refusal::Later(_) => Code::TryAgainLater,
        Refusal::Internal(_) => Code::Internal,
    };
    Failure::new(code, refusal.to_string())
}

fn unplumbed(error: Unplumbed, path: &str) -> Failure {
    match error {
        Unplumbed::SandboxGone(why) => gone(path).because(why),
        Unplumbed::Exists(why) => exists(why),
        Unplumbed::Refused(why) => {
            Failure::new(Code::Internal, "the kernel refused to make the interface").because(why)
        }
    }
}

fn gone(path: &str) -> Failure {
    Failure::new(
        Code::UnknownContainer,
        format!("the sandbox {path} is gone"),
    )
}

fn exists(msg: String) -> Failure {
    Failure::new(Code::InterfaceExists, msg)
}

fn not_in_time() -> Failure {
    Failure::new(
        Code::TryAgainLater,
        "route and policy of this container were not in the kernel in time: repeat the call",
    )
}
