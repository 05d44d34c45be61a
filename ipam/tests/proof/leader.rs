//! The leader in the simulation: a collector whose view is as old as it happens to be, whose errands are carried out call by call, and
//! whose questions are answered late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ipam::Time;
use ipam::collector::{Ask, Collector, Errand, Found, Need, PodSeen, Proof, Settings, Sign, View};
use ipam::memory::{Fault, LEADER, Memory};
use ipam::store::{Object, StoreCall, StoreReply, Stored};

/// What is true of the cluster, beside the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    /// Nodes that exist.
    pub(crate) nodes: BTreeSet<String>,
    /// Nodes whose daemon renews its Lease.
    pub(crate) alive: BTreeSet<String>,
    /// Pods that exist, by name; and their node.
    pub(crate) pods: BTreeMap<String, String>,
    /// The API server has lost pods that nodes still run.
    pub(crate) api_lies: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Leader {
    pub(crate) collector: Collector,
    pub(crate) view: View,
    errands: VecDeque<Errand>,
    /// Questions on their way: node → question.
    pub(crate) asks: BTreeMap<Arc<str>, Ask>,
    pub(crate) freed: usize,
}

/// Waits short enough for a walk.
pub(crate) fn brisk() -> Settings {
    Settings {
        leak_grace: Duration::from_secs(3),
        gone_grace: Duration::from_secs(2),
        silence: Duration::from_secs(2),
        ask_after: Duration::from_secs(1),
        ask_again: Duration::from_secs(2),
        handle_grace: Duration::from_secs(5),
        hold: Duration::from_secs(2),
        cooldown: Duration::from_secs(1),
        ..Settings::default()
    }
}

impl Leader {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            collector: Collector::new(settings),
            view: View::default(),
            errands: VecDeque::new(),
            asks: BTreeMap::new(),
            freed: 0,
        }
    }

    /// Sees everything as it is now, but for these pods.
    pub(crate) fn refresh(
        &mut self,
        store: &Memory,
        truth: &Truth,
        hidden: &BTreeSet<String>,
        now: Time,
    ) {
        let mut view = View {
            nodes: truth
                .nodes
                .iter()
                .map(|node| node.as_str().into())
                .collect(),
            signs: std::mem::take(&mut self.view.signs),
            whole: true,
            ..View::default()
        };
        for node in &truth.alive {
            let sign = Sign {
                heard: now,
                stamp: now.to_rfc3339().into(),
            };
            view.signs.insert(node.as_str().into(), sign);
        }
        for (name, node) in truth
            .pods
            .iter()
            .filter(|(name, _)| !hidden.contains(*name))
        {
            let pod = PodSeen {
                node: Some(node.as_str().into()),
                ..PodSeen::default()
            };
            view.pods
                .insert(("default".into(), name.as_str().into()), pod);
        }
        for (_, stored) in store.objects() {
            let meta = stored.meta.clone();
            match &stored.value {
                Object::Block(block) => {
                    let value = (**block).clone();
                    view.blocks.insert(block.cidr(), Stored { meta, value });
                }
                Object::Affinity(claim) => {
                    let key = (Arc::clone(&claim.node), claim.cidr);
                    let value = claim.clone();
                    view.affinities.insert(key, Stored { meta, value });
                }
                Object::Handle(handle) => {
                    let value = handle.clone();
                    view.handles
                        .insert(handle.name().into(), Stored { meta, value });
                }
            }
        }
        self.view = view;
    }

    /// Decides anew; what was under way is done first.
    pub(crate) fn look(&mut self, now: Time) {
        let orders = self.collector.look(&self.view, now);
        self.asks.extend(orders.ask.clone());
        if self.errands.is_empty() {
            self.errands = self.collector.errands(&orders, &self.view).into();
        }
    }

    /// Whether something is under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.errands.is_empty()
    }

    /// One read, proof or write of the errand under way.
    pub(crate) fn step(&mut self, store: &mut Memory, truth: &Truth, now: Time, fault: Fault) {
        let Some(errand) = self.errands.front_mut() else {
            return;
        };
        match errand.next(now) {
            Need::Done => {
                self.freed += errand.freed();
                self.errands.pop_front();
            }
            Need::Read(key) => {
                let found = store.carry_out(LEADER, &StoreCall::Get(key), Fault::None);
                let object = match found {
                    Ok(StoreReply::Object(stored)) => Some(Box::new(stored)),
                    Ok(StoreReply::Removed) | Err(_) => None,
                };
                errand.feed(Found::Object(object));
            }
            Need::Prove(proof) => errand.feed(Found::Proved(holds(&proof, truth))),
            Need::Write(call) => {
                errand.feed(Found::Written(store.carry_out(LEADER, &call, fault)));
            }
        }
    }

    /// A node answers what it was asked: what its journal has is its own.
    pub(crate) fn answer(&mut self, node: &str, journal: impl Fn(&str) -> bool, now: Time) {
        let Some(ask) = self.asks.remove(node) else {
            return;
        };
        let mine = ask
            .spots
            .iter()
            .enumerate()
            .filter(|(_, spot)| journal(&spot.handle))
            .map(|(at, _)| at)
            .collect();
        self.collector.answered(node, ask.id, &mine, now);
    }
}

fn holds(proof: &Proof, truth: &Truth) -> bool {
    match proof {
        Proof::NodeGone(node, _) => {
            !truth.nodes.contains(&**node) && !truth.alive.contains(&**node)
        }
        Proof::PodNotOn((_, pod), node) => {
            truth.api_lies || truth.pods.get(&**pod).is_none_or(|at| **at != **node)
        }
    }
}
