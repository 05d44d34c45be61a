//! DEL: succeeds when there is nothing (left) to do.
//!
//! The runtime is answered once nothing passes any more: route and policy are out, and the journal says *leaving*. The link and
//! the address go behind the answer, in this order, because one costs 20 ms of the kernel's grace periods and the other a write to
//! the API server, and the runtime needs neither. A daemon that dies in between finishes both at its next start.

use std::sync::Arc;

use cni_plugin::spec::{Code, Failure};

use super::{Key, Server};
use crate::cni::call::Call;
use crate::cni::locks::Turn;
use crate::cni::names;
use crate::cni::record::{Record, State};

/// What a DEL leaves to be done behind its answer. It holds the turns, so whoever comes for the same attachment or interface waits.
#[derive(Debug)]
pub(in crate::cni) struct Leaving {
    record: Record,
    _turns: [Turn<Key>; 2],
}

impl Server {
    /// Cuts a container off. A running ADD of the same key has been told to end; its turn is awaited, so that its roll-back comes
    /// first.
    pub(super) async fn del(&self, call: &Call) -> Result<Leaving, Failure> {
        let turn = self.locks.enter(Key::Attachment(call.id.clone())).await;
        let mut record = match self.book.find(&call.id) {
            Some(record) => record,
            None => self.unrecorded(call).await?,
        };
        let host_turn = self.locks.enter(Key::Host(Arc::clone(&record.host))).await;
        self.leave(&mut record);
        if record.holds_interface() {
            self.withdraw(&record).await;
        }
        Ok(Leaving {
            record,
            _turns: [turn, host_turn],
        })
    }

    /// The rest of a DEL. Nobody waits for it: a link that stays is tried again by the sweep.
    pub(in crate::cni) async fn finish(&self, leaving: Leaving) {
        let Leaving { record, _turns } = leaving;
        if record.holds_interface()
            && let Err(failure) = self.detach(&record).await
        {
            tracing::warn!(attachment = %record.id, %failure, details = failure.details, "interface stays for now");
            return;
        }
        self.pay(record).await;
    }

    /// A container the journal does not know: its interface is recognised by its mark, its addresses by their handle.
    async fn unrecorded(&self, call: &Call) -> Result<Record, Failure> {
        let settings = self.rooms.cluster.settings();
        let pod = call.pod_ref();
        let host = Self::host_interface(&settings.interface_prefix, pod.as_ref(), call)?;
        let link = self
            .rooms
            .kernel
            .link(Arc::clone(&host))
            .await
            .map_err(|why| {
                Failure::new(Code::Internal, "the node's interfaces cannot be looked up")
                    .because(why)
            })?;
        let ours = link.filter(|link| names::is_alias_of(&link.alias, &call.id.container_id));
        Ok(Record {
            serial: self.book.next_serial(),
            id: call.id.clone(),
            pod,
            pod_uid: None,
            netns: call.environment.netns.as_str().into(),
            sandbox: None,
            host,
            ifindex: ours.as_ref().map_or(0, |link| link.ifindex),
            mac: None,
            handle: names::handle(&call.id).into(),
            claims: Vec::new(),
            labels: call.config.labels.clone(),
            // Without an interface that is surely its own, only the addresses of its handle are released.
            state: if ours.is_some() {
                State::Leaving
            } else {
                State::Replaced
            },
            since: 0,
        })
    }
}
