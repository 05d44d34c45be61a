//! The kernel's side of the reconcile task: both drivers, what they planned last, and the order between them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use dataplane::host::Host;
use dataplane::io::{Changed, Config, Driver as RouteDriver, Monitor, SysctlRoot};
use dataplane::link::IfName;
use dataplane::plan::Finding;
use dataplane::plan::pools::Pools;
use dataplane::plan::settings::{Bgp, Settings};
use dataplane::tables::{Desired, Retain, Table};
use model::{AttachmentId, Dirty, World};
use policy_iptables::flows::{self, Review};
use policy_iptables::io::{Driver as PolicyDriver, Monitor as PolicyMonitor};
use policy_iptables::plan::{Planner, Settings as PolicySettings};
use policy_iptables::ruleset::Ruleset;
use tokio::sync::mpsc;

use super::outlook;
use super::probed::Probed;
use crate::fib::{Facts, Fib, LearntRoutes, Underlay};
use crate::metrics::{DomainLabel, Metrics};
use crate::world::Unprogrammed;

const POLICY: &str = "policy";
const ROUTES: &str = "routes";

/// What is known of live flows: by which rules they were looked at last, and who looks.
#[derive(Debug, Default)]
struct Reviews {
    /// The rules at the last review; none before the first.
    by: Option<Arc<Ruleset>>,
    /// Not sent yet, because the task is busy.
    pending: Option<Review>,
    task: Option<mpsc::Sender<Review>>,
}

/// Both drivers and what is known of the host.
#[derive(Debug)]
pub struct Kernel {
    policy: PolicyDriver,
    planner: Planner,
    reviews: Reviews,
    routes: RouteDriver,
    host: Host,
    /// Which tunnels its kernel cannot make.
    lacks: Probed,
    /// Routes of the host that are not ours.
    underlay: Underlay,
    host_stale: bool,
    fib: Fib,
    settings: Settings,
    interface_prefix: String,
    pod_mtu: u32,
    /// Domains whose last apply was refused.
    owed: Dirty,
    /// What the last plans and applies left undone, each one sentence.
    complaints: [Vec<String>; 2],
}

impl Kernel {
    /// Opens the sockets, takes over what a former daemon left and looks at the host. Nothing is changed yet.
    ///
    /// # Errors
    /// A socket cannot be had, another daemon owns the table, or the host cannot be listed.
    pub fn open(sysctl_root: &Path) -> anyhow::Result<Self> {
        let mut policy = PolicyDriver::open()?;
        let mut planner = Planner::new();
        planner.adopt(&policy.kept_ids()?);
        let config = Config {
            sysctl_root: SysctlRoot::new(sysctl_root),
            ..Config::default()
        };
        let mut routes = RouteDriver::open(config)?;
        let host = routes.host()?;
        let underlay = routes.underlay()?;
        Ok(Self {
            policy,
            planner,
            reviews: Reviews::default(),
            routes,
            host,
            lacks: Probed::default(),
            underlay,
            host_stale: false,
            fib: Fib::default(),
            settings: Settings::new(Bgp::Off),
            interface_prefix: "cali".to_owned(),
            pod_mtu: 0,
            owed: Dirty::NONE,
            complaints: [Vec::new(), Vec::new()],
        })
    }

    /// Listens for changes of the kernel's tables.
    ///
    /// # Errors
    /// No socket.
    pub fn monitor(&self) -> anyhow::Result<Monitor> {
        Ok(Monitor::open([self.routes.port()?])?)
    }

    /// Listens for other hands on the table of policy.
    ///
    /// # Errors
    /// No socket.
    pub fn policy_monitor(&self) -> anyhow::Result<PolicyMonitor> {
        Ok(PolicyMonitor::open(self.policy.port()?)?)
    }

    /// Gives reviews of live flows to this task from now on.
    pub fn review_by(&mut self, task: mpsc::Sender<Review>) {
        self.reviews.task = Some(task);
    }

    /// Another hand touched the table of policy.
    pub fn policy_touched(&mut self) {
        self.policy.forget();
    }

    /// True when a former daemon left routes learnt by BGP that still forward.
    ///
    /// # Errors
    /// The routes cannot be listed.
    pub fn has_learnt_routes(&mut self) -> anyhow::Result<bool> {
        Ok(self.routes.has_learnt_routes()?)
    }

    /// Devices and addresses of this host at the last look.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Begins the names of host ends.
    pub fn interface_prefix(&self) -> &str {
        &self.interface_prefix
    }

    /// MTU of pods; 0 until planned.
    pub fn pod_mtu(&self) -> u32 {
        self.pod_mtu
    }

    /// Whether IPv6 is handled at all.
    pub fn ipv6(&self) -> bool {
        self.settings.ipv6
    }

    /// Routes wanted in the kernel.
    pub fn routes(&self) -> usize {
        self.routes.tables().wanted_routes()
    }

    /// Rules in the kernel.
    pub fn rules(&self) -> usize {
        self.policy.size().rules
    }

    /// What is not as it should be, each one sentence.
    pub fn problems(&self) -> Vec<String> {
        self.complaints.iter().flatten().cloned().collect()
    }

    /// Takes the configuration in force.
    pub fn configure(&mut self, felix: &api::FelixConfigurationSpec, bgp: Bgp) {
        let (settings, errors) = Settings::read(bgp, felix);
        for error in errors {
            tracing::warn!(%error, "setting ignored");
        }
        self.settings = settings;
        outlook::interface_prefix(felix).clone_into(&mut self.interface_prefix);
    }

    /// Drops what is known of the kernel: the next round lists everything.
    pub fn forget(&mut self) {
        self.host_stale = true;
        self.lacks.forget();
        self.policy.forget();
        for table in Table::ALL {
            self.routes.forget(table);
        }
    }

    /// Somebody changed these tables.
    pub fn changed(&mut self, changed: &Changed) {
        self.host_stale |= changed.host || changed.tables.contains(&Table::Routes);
        self.routes.note(changed);
    }

    /// Takes best paths of the speaker; true when a plan may follow from them.
    pub fn learnt(&mut self, routes: LearntRoutes) -> bool {
        self.fib.take(routes)
    }

    /// Next hops of learnt paths that cannot be reached.
    pub fn unresolved(&self) -> Arc<BTreeSet<IpAddr>> {
        self.fib.unresolved()
    }

    /// Domains to apply although nothing changed, because the last time was refused.
    pub fn owed(&self) -> Dirty {
        self.owed
    }

    /// Plans and applies: policy, then links, neighbours and routes.
    ///
    /// # Errors
    /// [`Unprogrammed::Refused`] with the kernel's words; the domain is owed then.
    pub fn apply(
        &mut self,
        world: &mut World,
        dirty: Dirty,
        metrics: &Metrics,
    ) -> Result<(), Unprogrammed> {
        if dirty.is_none() {
            return Ok(());
        }
        self.owed = dirty;
        self.look()
            .map_err(|error| refused(ROUTES, &error, metrics))?;
        let (pools, _) = Pools::read(world);
        self.host.lacks = self.lacks.of(&pools);
        let mut plan = dataplane::plan::plan(world, &self.host, &self.settings);
        plan.findings.extend(self.outer_source(world, &plan));
        self.pod_mtu = plan.mtu.pod;
        let settings =
            PolicySettings::from_world(world, plan.nat.clone(), self.policy.features().abilities);
        let policies = self.planner.plan(world, &settings);
        self.commit(&policies, metrics)?;
        self.review(world, settings.cut);
        let facts = Facts::read(
            world,
            &self.host,
            &pools,
            &self.settings,
            self.underlay.clone(),
        );
        self.route(plan, facts, metrics)?;
        metrics
            .endpoints_local
            .set(i64::try_from(world.local_endpoints().count()).unwrap_or(i64::MAX));
        self.owed = Dirty::NONE;
        Ok(())
    }

    /// Whether IP-in-IP leaves from the address other nodes know. A lookup that fails says nothing: the next round asks again.
    fn outer_source(&mut self, world: &World, plan: &dataplane::plan::Plan) -> Option<Finding> {
        let own = world.this_node()?.address(false)?;
        let peer = plan.ipip_peer()?;
        let used = self.routes.source_towards(peer).ok().flatten()?;
        (used != own).then_some(Finding::OuterSource { peer, used, own })
    }

    fn look(&mut self) -> Result<(), dataplane::io::DriverError> {
        if self.host_stale {
            self.host = self.routes.host()?;
            self.underlay = self.routes.underlay()?;
            self.host_stale = false;
        }
        Ok(())
    }

    fn commit(
        &mut self,
        plan: &policy_iptables::plan::Plan,
        metrics: &Metrics,
    ) -> Result<(), Unprogrammed> {
        let started = crate::clock::now();
        let applied = self
            .policy
            .apply(&plan.ruleset)
            .map_err(|error| refused(POLICY, &error, metrics))?;
        observe(metrics, POLICY, started, applied.messages);
        let findings = plan
            .findings
            .iter()
            .map(|finding| format!("{} {}: {}", finding.policy, finding.path, finding.message));
        let isolated = applied.isolated.iter().map(|isolated| {
            let policies = plan.groups.get(&isolated.chain).map(|group| {
                let names: Vec<String> = group.policies.iter().map(ToString::to_string).collect();
                names.join(", ")
            });
            format!(
                "the kernel refused rules of {}: {}; their old rules stay",
                policies.unwrap_or_default(),
                isolated.reason
            )
        });
        self.complain(0, findings.chain(isolated).collect());
        Ok(())
    }

    /// Has the live flows looked at whose verdicts the last commit may have changed. `bit`: of their marks; none if they live on.
    fn review(&mut self, world: &World, bit: Option<u32>) {
        let (Some(bit), Some(now)) = (bit, self.policy.applied()) else {
            self.reviews.by = None;
            return;
        };
        if self.reviews.by.as_deref() != Some(now) {
            let concern = flows::concern(self.reviews.by.as_deref(), now);
            let now = Arc::new(now.clone());
            self.reviews.by = Some(Arc::clone(&now));
            let devices = self.host.devices.values();
            let host = devices.flat_map(|device| device.addresses.iter().map(ipnet::IpNet::addr));
            let review = Review::new(now, world, host.collect(), bit, concern);
            self.reviews.pending = match self.reviews.pending.take() {
                Some(earlier) => Some(review.after(earlier)),
                None => Some(review).filter(|review| !review.is_empty()),
            };
        }
        if let (Some(task), Some(review)) = (&self.reviews.task, self.reviews.pending.take())
            && let Err(mpsc::error::TrySendError::Full(review)) = task.try_send(review)
        {
            self.reviews.pending = Some(review);
        }
    }

    fn route(
        &mut self,
        plan: dataplane::plan::Plan,
        facts: Facts,
        metrics: &Metrics,
    ) -> Result<(), Unprogrammed> {
        let merged = self.fib.merge(&plan.candidates, facts);
        let desired = Desired {
            routes: merged.chosen,
            ..plan.desired
        };
        let retain = Retain {
            planned: false,
            learnt: !self.fib.complete(),
        };
        let started = crate::clock::now();
        let report = self
            .routes
            .apply(desired, retain)
            .map_err(|error| refused(ROUTES, &error, metrics))?;
        observe(metrics, ROUTES, started, report.sent);
        let findings = plan.findings.iter().map(ToString::to_string);
        let refusals = report
            .refused
            .iter()
            .map(|refused| format!("{} {}: {}", refused.table, refused.object, refused.reason));
        let transient = report.wants_retry();
        self.complain(1, findings.chain(refusals).collect());
        if transient {
            let reason = report
                .refused
                .iter()
                .find(|refused| refused.transient)
                .map(|refused| refused.reason.clone());
            return Err(Unprogrammed::Refused {
                domain: ROUTES,
                reason: reason.unwrap_or_default().into(),
            });
        }
        Ok(())
    }

    /// Remembers what is wrong, and logs what was not wrong before.
    fn complain(&mut self, slot: usize, now: Vec<String>) {
        let Some(before) = self.complaints.get_mut(slot) else {
            return;
        };
        for complaint in now.iter().filter(|complaint| !before.contains(complaint)) {
            tracing::warn!(problem = %complaint, "not as planned");
        }
        *before = now;
    }

    /// Whether an interface is up and all its routes are in the kernel.
    pub fn stands(&self, world: &World, id: &AttachmentId) -> bool {
        let interface = world
            .local_endpoint(id)
            .map(|endpoint| IfName::parse(&endpoint.interface));
        matches!(interface, Some(Ok(name)) if self.routes.tables().stands(&name))
    }
}

fn observe(metrics: &Metrics, domain: &'static str, started: std::time::Instant, messages: usize) {
    let label = DomainLabel { domain };
    let seconds = crate::clock::now()
        .saturating_duration_since(started)
        .as_secs_f64();
    metrics.apply_seconds.get_or_create(&label).observe(seconds);
    metrics
        .apply_messages
        .get_or_create(&label)
        .inc_by(u64::try_from(messages).unwrap_or(u64::MAX));
    if messages > 0 {
        tracing::debug!(domain, messages, seconds, "applied");
    }
}

fn refused(domain: &'static str, error: &dyn std::error::Error, metrics: &Metrics) -> Unprogrammed {
    metrics
        .apply_failures
        .get_or_create(&DomainLabel { domain })
        .inc();
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason.push_str(": ");
            reason.push_str(&text);
        }
        source = cause.source();
    }
    Unprogrammed::Refused {
        domain,
        reason: Arc::from(reason),
    }
}
