//! A cluster in one value: a store, nodes with their allocators, calls and events in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::PoolUse;
use ipam::index::Event;
use ipam::memory::{Fault, Memory, Watcher};
use ipam::pool::Pool;
use ipam::store::{CallId, StoreCall, StoreError, StoreReply};
use ipam::{
    Addresses, Allocator, Answer, Assign, AssignError, Assigned, Config, Family, Input, Note,
    Output, Release, ReleaseError, Released, RequestId, Settings, Taken, Time, Want,
};
use ipnet::IpNet;

pub(crate) const START: Time = Time::from_secs(1_700_000_000);

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn pool(name: &str, cidr: &str, block_len: u8) -> Pool {
    Pool {
        name: Arc::from(name),
        cidr: net(cidr),
        block_len,
        nodes: None,
        namespaces: None,
        uses: vec![PoolUse::Workload, PoolUse::Tunnel],
        automatic: true,
        disabled: false,
        terminating: false,
        ipip: false,
        vxlan: false,
        created: None,
        marked_allocatable: None,
    }
}

/// A call under way: sent, perhaps carried out, not answered.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) id: CallId,
    pub(crate) call: StoreCall,
    pub(crate) result: Option<Result<StoreReply, StoreError>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) alloc: Allocator,
    pub(crate) watcher: Watcher,
    pub(crate) calls: Vec<Pending>,
    pub(crate) answers: BTreeMap<RequestId, Answer>,
    pub(crate) notes: Vec<Note>,
}

#[derive(Clone, Debug)]
pub(crate) struct Sim {
    pub(crate) store: Memory,
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Time,
    pub(crate) settings: Settings,
    pub(crate) pools: BTreeMap<String, Pool>,
    pub(crate) config: Config,
    pub(crate) reservations: Vec<IpNet>,
    pub(crate) calls_done: Vec<(String, StoreCall)>,
    next_request: u64,
}

impl Sim {
    pub(crate) fn new(nodes: &[&str], pools: &[Pool]) -> Self {
        let mut sim = Self {
            store: Memory::new(),
            nodes: Vec::new(),
            now: START,
            settings: Settings::default(),
            pools: pools
                .iter()
                .map(|pool| (pool.name.to_string(), pool.clone()))
                .collect(),
            config: Config {
                cooldown: Duration::ZERO,
                ..Config::default()
            },
            reservations: Vec::new(),
            calls_done: Vec::new(),
            next_request: 0,
        };
        for name in nodes {
            let (watcher, _) = sim.store.subscribe();
            sim.nodes.push(Node {
                name: (*name).to_owned(),
                alloc: Allocator::new(name, Settings::default()),
                watcher,
                calls: Vec::new(),
                answers: BTreeMap::new(),
                notes: Vec::new(),
            });
        }
        for n in 0..sim.nodes.len() {
            sim.boot(n);
        }
        sim
    }

    /// Starts a node's allocator from nothing but the store.
    pub(crate) fn boot(&mut self, n: usize) {
        let name = self.nodes[n].name.clone();
        let seed = n as u64;
        self.nodes[n].alloc = Allocator::new(
            &name,
            Settings {
                seed,
                ..self.settings.clone()
            },
        );
        self.nodes[n].calls.clear();
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        for name in names {
            self.feed(
                n,
                Input::Event(Event::Node(Arc::from(name), Arc::default())),
            );
        }
        for pool in self.pools.values().cloned().collect::<Vec<_>>() {
            self.feed(n, Input::Event(Event::Pool(Ok(pool))));
        }
        self.feed(n, Input::Event(Event::Config(self.config.clone())));
        self.feed(
            n,
            Input::Event(Event::Reservation(
                Arc::from("r"),
                self.reservations.clone(),
            )),
        );
        let watcher = self.nodes[n].watcher;
        for event in self.store.relist(watcher) {
            self.feed(n, Input::Event(event));
        }
        self.feed(n, Input::Event(Event::Synced));
    }

    pub(crate) fn event_to_all(&mut self, event: &Event) {
        for n in 0..self.nodes.len() {
            self.feed(n, Input::Event(event.clone()));
        }
    }

    pub(crate) fn set_pool(&mut self, pool: Pool) {
        self.pools.insert(pool.name.to_string(), pool.clone());
        self.event_to_all(&Event::Pool(Ok(pool)));
    }

    pub(crate) fn remove_pool(&mut self, name: &str) {
        self.pools.remove(name);
        self.event_to_all(&Event::PoolGone(Arc::from(name)));
    }

    pub(crate) fn set_config(&mut self, config: Config) {
        self.config = config.clone();
        self.event_to_all(&Event::Config(config));
    }

    pub(crate) fn reserve(&mut self, ranges: &[&str]) {
        self.reservations = ranges.iter().map(|range| net(range)).collect();
        self.event_to_all(&Event::Reservation(
            Arc::from("r"),
            self.reservations.clone(),
        ));
    }

    pub(crate) fn feed(&mut self, n: usize, input: Input) {
        let now = self.now;
        let node = &mut self.nodes[n];
        for output in node.alloc.handle(input, now) {
            match output {
                Output::Op(id, call) => node.calls.push(Pending {
                    id,
                    call,
                    result: None,
                }),
                Output::Answer(id, answer) => {
                    assert!(
                        node.answers.insert(id, answer).is_none(),
                        "one answer per request"
                    );
                }
                Output::Note(note) => node.notes.push(note),
            }
        }
    }

    pub(crate) fn request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    pub(crate) fn send(&mut self, n: usize, request: Assign) -> RequestId {
        let id = self.request();
        self.feed(n, Input::Assign(id, request));
        id
    }

    pub(crate) fn ask(&mut self, n: usize, handle: &str) -> RequestId {
        let request = self.pod(n, handle);
        self.send(n, request)
    }

    pub(crate) fn pod(&self, n: usize, handle: &str) -> Assign {
        Assign {
            handle: handle.to_owned(),
            usage: PoolUse::Workload,
            wants: vec![Want::any(Family::V4)],
            namespace_labels: BTreeMap::new(),
            attributes: ipam::handle::pod_attributes(
                "default",
                handle,
                &self.nodes[n].name,
                self.now,
            ),
            supersedes: BTreeSet::new(),
        }
    }

    pub(crate) fn give(&mut self, n: usize, handle: &str, addresses: Addresses) -> RequestId {
        let id = self.request();
        self.feed(
            n,
            Input::Release(
                id,
                Release {
                    handle: handle.to_owned(),
                    addresses,
                },
            ),
        );
        id
    }

    /// Carries out the `k`-th call of a node; its reply stays under way.
    pub(crate) fn carry(&mut self, n: usize, k: usize, fault: Fault) {
        let node = &mut self.nodes[n];
        let pending = &mut node.calls[k];
        self.calls_done
            .push((node.name.clone(), pending.call.clone()));
        let result = self.store.carry_out(&node.name, &pending.call, fault);
        if fault != Fault::Denied
            && let Err(StoreError::Denied(why)) = &result
        {
            panic!("a node overstepped its rights: {why}");
        }
        pending.result = Some(result);
    }

    /// Delivers the reply of the `k`-th call of a node.
    pub(crate) fn reply(&mut self, n: usize, k: usize) {
        let pending = self.nodes[n].calls.remove(k);
        self.feed(
            n,
            Input::Reply(pending.id, pending.result.expect("carried out")),
        );
    }

    /// Carries the oldest call of a node out and delivers its reply.
    pub(crate) fn turn(&mut self, n: usize, fault: Fault) {
        self.carry(n, 0, fault);
        self.reply(n, 0);
    }

    pub(crate) fn deliver_all(&mut self, n: usize) {
        let watcher = self.nodes[n].watcher;
        while self.store.backlog(watcher) > 0 {
            if let Some(event) = self.store.deliver(watcher, 0) {
                self.feed(n, Input::Event(event));
            }
        }
    }

    /// Runs until nothing is left to do before `span` has passed.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let end = self.now.plus(span);
        for _ in 0..1_000_000 {
            if self.run_now() {
                continue;
            }
            let next = self
                .nodes
                .iter()
                .filter_map(|node| node.alloc.next_deadline())
                .min();
            let Some(at) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            for n in 0..self.nodes.len() {
                self.feed(n, Input::Tick);
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Carries out everything that is under way, node by node; `false` = there was nothing.
    pub(crate) fn run_now(&mut self) -> bool {
        let mut moved = false;
        for n in 0..self.nodes.len() {
            while !self.nodes[n].calls.is_empty() {
                if self.nodes[n].calls[0].result.is_none() {
                    self.carry(n, 0, Fault::None);
                }
                self.reply(n, 0);
                moved = true;
            }
        }
        for n in 0..self.nodes.len() {
            moved |= self.store.backlog(self.nodes[n].watcher) > 0;
            self.deliver_all(n);
        }
        moved
    }

    pub(crate) fn run(&mut self) {
        self.run_for(Duration::from_secs(2));
    }

    pub(crate) fn assigned(
        &mut self,
        n: usize,
        id: RequestId,
    ) -> Result<Vec<Assigned>, AssignError> {
        match self.nodes[n].answers.remove(&id) {
            Some(Answer::Assign(answer)) => answer,
            other => panic!("no answer to the request: {other:?}"),
        }
    }

    pub(crate) fn released(&mut self, n: usize, id: RequestId) -> Result<Released, ReleaseError> {
        match self.nodes[n].answers.remove(&id) {
            Some(Answer::Release(answer)) => answer,
            other => panic!("no answer to the release: {other:?}"),
        }
    }

    /// Asks for one address and waits for it.
    pub(crate) fn get(&mut self, n: usize, handle: &str) -> Result<Assigned, AssignError> {
        let id = self.ask(n, handle);
        self.run();
        self.assigned(n, id).map(|all| all[0])
    }

    /// Gives one address back and waits for it.
    pub(crate) fn free(&mut self, n: usize, handle: &str, assigned: Assigned) -> Released {
        let id = self.give(n, handle, Addresses::Exactly(vec![taken(assigned)]));
        self.run();
        self.released(n, id).unwrap()
    }

    /// Every address somebody holds: address → handle. Panics on a broken block or two owners.
    pub(crate) fn held(&self) -> BTreeMap<std::net::IpAddr, String> {
        let mut held = BTreeMap::new();
        for block in self.store.blocks() {
            block.check().unwrap();
            for (ordinal, entry) in block.held() {
                let handle = entry.handle().unwrap_or_default().to_owned();
                assert!(
                    held.insert(block.address(ordinal).unwrap(), handle)
                        .is_none(),
                    "two blocks hold one address"
                );
            }
        }
        held
    }

    /// Writes carried out, handle objects aside.
    pub(crate) fn address_writes(&self) -> usize {
        self.calls_done
            .iter()
            .filter(|(_, call)| is_write(call) && !is_handle(call))
            .count()
    }

    pub(crate) fn address_reads(&self) -> usize {
        self.calls_done
            .iter()
            .filter(|(_, call)| matches!(call, StoreCall::Get(_)) && !is_handle(call))
            .count()
    }

    /// What the books say, with these pods alive.
    pub(crate) fn audit(&self, pods: Vec<ipam::audit::Pod>) -> Vec<ipam::audit::Finding> {
        use ipam::store::Object;
        let mut books = ipam::audit::Books {
            pods,
            nodes: self.nodes.iter().map(|node| node.name.clone()).collect(),
            pools: self.pools.values().map(|pool| pool.cidr).collect(),
            ..ipam::audit::Books::default()
        };
        for (_, stored) in self.store.objects() {
            match &stored.value {
                Object::Block(block) => books.blocks.push((**block).clone()),
                Object::Affinity(affinity) => books.affinities.push(affinity.clone()),
                Object::Handle(handle) => books.handles.push(handle.clone()),
            }
        }
        ipam::audit::audit(&books)
    }
}

pub(crate) fn taken(assigned: Assigned) -> Taken {
    Taken {
        block: assigned.block,
        ordinal: assigned.ordinal,
        sequence: assigned.sequence,
    }
}

pub(crate) fn is_handle(call: &StoreCall) -> bool {
    use ipam::store::{Key, Object};
    match call {
        StoreCall::Get(key) | StoreCall::Remove(key, _) => matches!(key, Key::Handle(_)),
        StoreCall::Create(object) | StoreCall::Swap(object, _) => {
            matches!(object, Object::Handle(_))
        }
    }
}

pub(crate) fn is_write(call: &StoreCall) -> bool {
    !matches!(call, StoreCall::Get(_))
}
