//! GC: what the runtime does not list and whose sandbox is gone, goes. And the same by ourselves, for runtimes that never ask.

use std::sync::Arc;
use std::time::Duration;

use cni_plugin::spec::{Attachments, Code, Failure};

use super::{Key, Server};
use crate::clock;
use crate::cni::call::Call;
use crate::cni::record::{Record, State};
use crate::cni::sandbox as namespaces;

/// How often the daemon looks for vanished sandboxes. One listing of links; a watch on namespace files would be quicker by
/// seconds, and blind where the runtime's mounts are not seen.
pub(super) const SWEEP: Duration = Duration::from_secs(5);
/// How often owed releases are tried.
pub(super) const OWED: Duration = Duration::from_secs(5);

impl Server {
    /// Drops attachments of this network that are not listed, not younger than the request, and whose sandbox is gone. A live one
    /// stays and is named. Goes on after errors and reports all.
    pub(super) async fn gc(&self, call: &Call) -> Result<(), Failure> {
        let listed = call
            .config
            .attachments
            .clone()
            .unwrap_or(Attachments(Vec::new()));
        let began = u64::try_from(clock::unix_seconds()).unwrap_or(0);
        let mut problems = Vec::new();
        for record in self.book.all() {
            let candidate = *record.id.network == *call.config.name
                && record.state != State::Owed
                && record.since < began
                && !listed.contains(&record.id.container_id, &record.id.ifname);
            if !candidate {
                continue;
            }
            match self.collect(&record).await {
                Ok(true) => {}
                Ok(false) => problems.push(format!(
                    "{} is not listed, but its sandbox {} lives: kept",
                    record.id, record.netns
                )),
                Err(failure) => {
                    problems.push(format!("{}: {failure} ({})", record.id, failure.details));
                }
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            Code::Internal,
            format!(
                "{} attachments that are not listed could not be dropped",
                problems.len()
            ),
        )
        .because(problems.join("; ")))
    }

    /// One round of our own collection, from one listing of links; errors are said and tried again next time.
    pub(in crate::cni) async fn sweep(&self) {
        let prefix = self.rooms.cluster.settings().interface_prefix;
        let links = match self.rooms.kernel.links(&prefix).await {
            Ok(links) => links,
            Err(why) => {
                tracing::warn!(why, "interfaces cannot be listed: nothing is collected");
                return;
            }
        };
        for record in self.book.all() {
            let link = links.get(&*record.host);
            let suspect = match record.state {
                State::Attached => {
                    link.is_none_or(|link| link.ifindex != record.ifindex) || moved(&record)
                }
                // Its interface is another's; its address waits for the DEL of the older sandbox.
                State::Replaced => moved(&record),
                State::Leaving => true,
                // An ADD is at it, or recovery undoes it; owed releases have their own pace.
                State::Intent | State::Owed => false,
            };
            if !suspect {
                continue;
            }
            match self.collect(&record).await {
                Ok(true) if record.state == State::Leaving => {
                    tracing::info!(attachment = %record.id, "detached by now");
                }
                Ok(true) => {
                    tracing::info!(attachment = %record.id, "sandbox vanished without a DEL: collected");
                }
                Ok(false) => {}
                Err(failure) => {
                    tracing::warn!(attachment = %record.id, %failure, details = failure.details, "collection failed");
                }
            }
        }
    }

    /// Tries every owed release once.
    pub(in crate::cni) async fn pay_owed(&self) {
        for record in self.book.in_state(State::Owed) {
            let _turn = self.locks.enter(Key::Attachment(record.id.clone())).await;
            if let Some(record) = self.book.get(record.serial) {
                self.pay(record).await;
            }
        }
    }

    /// Drops one attachment if its sandbox is gone; answers whether it was.
    async fn collect(&self, record: &Record) -> Result<bool, Failure> {
        let _turn = self.locks.enter(Key::Attachment(record.id.clone())).await;
        let Some(record) = self.book.get(record.serial) else {
            return Ok(true);
        };
        if record.state != State::Leaving && !self.sandbox_is_gone(&record).await {
            return Ok(false);
        }
        let _host_turn = self.locks.enter(Key::Host(Arc::clone(&record.host))).await;
        self.tear_down(record).await?;
        self.metrics.collected();
        Ok(true)
    }

    /// Whether a sandbox is gone. The kernel deletes a veth with the namespace of its other end, so a missing host link is proof.
    /// A path proves it only the other way: when another namespace stands there now. That the path is missing proves nothing, as
    /// this daemon may not see the runtime's mounts.
    pub(super) async fn sandbox_is_gone(&self, record: &Record) -> bool {
        if moved(record) {
            return true;
        }
        if record.state == State::Replaced {
            return false;
        }
        match self.rooms.kernel.link(Arc::clone(&record.host)).await {
            Ok(link) => {
                link.is_none_or(|link| record.ifindex != 0 && link.ifindex != record.ifindex)
            }
            Err(why) => {
                tracing::warn!(
                    why,
                    "interface cannot be looked up: its sandbox counts as alive"
                );
                false
            }
        }
    }
}

/// True when another namespace, or what is left of one, stands on the path of this sandbox.
fn moved(record: &Record) -> bool {
    record
        .sandbox
        .zip(namespaces::at(&record.netns))
        .is_some_and(|(recorded, there)| recorded != there)
}
