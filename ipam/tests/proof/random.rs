//! A long seeded walk through a larger world: several nodes, pods that come and go, calls that fail in every way,
//! late, reordered and lost events, dying daemons, nodes that are away or gone for good, edited pools and settings; and a
//! leader that collects from old views, partial lists and an API server that denies pods.
//!
//! The seed is printed; `IPAM_SEED` replays one, `IPAM_STEPS` lengthens the walk.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipam::audit::{Finding, Pod};
use ipam::memory::Fault;
use ipam::{Addresses, Allocator, Answer, Assigned, Config, Input, RequestId, Settings};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::leader::{Leader, Truth, brisk};
use crate::sim::{Sim, pool, taken};

/// Steps per commit, over all seeds.
const STEPS: u64 = 1_000_000;
const SEEDS: u64 = 4;
/// Pods a node runs at most: together more than the pool holds.
const PODS: usize = 16;

/// A pod's address, as its node's journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Life {
    Intent(RequestId),
    Attached(Assigned),
    Leaving(RequestId),
}

struct Walk {
    sim: Sim,
    random: SmallRng,
    /// Per node: handle → life.
    journals: Vec<BTreeMap<String, Life>>,
    /// Address → who was answered it and still has it.
    owners: BTreeMap<IpAddr, (usize, String)>,
    leader: Leader,
    /// Nodes that are cut off: they do nothing, and keep what they have.
    away: BTreeSet<usize>,
    /// Nodes that are deleted, their machine gone.
    gone: BTreeSet<usize>,
    pods: u64,
    answered: u64,
    refused: u64,
    crashes: u64,
    deaths: u64,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let nodes = random.random_range(3..=names.len());
        let sim = Sim::new(
            &names[..nodes],
            &[pool("p", "10.0.0.0/26", 29), pool("q", "10.1.0.0/28", 30)],
        );
        Self {
            sim,
            random,
            journals: vec![BTreeMap::new(); nodes],
            owners: BTreeMap::new(),
            leader: Leader::new(brisk()),
            away: BTreeSet::new(),
            gone: BTreeSet::new(),
            pods: 0,
            answered: 0,
            refused: 0,
            crashes: 0,
            deaths: 0,
        }
    }

    fn step(&mut self) {
        self.sim.calls_done.clear();
        let n = self.random.random_range(0..self.sim.nodes.len());
        if self.random.random_range(0..30) == 0 {
            return self.lead(n);
        }
        if self.random.random_range(0..2000) == 0 {
            return self.fate(n);
        }
        if self.away.contains(&n) || self.gone.contains(&n) {
            return;
        }
        match self.random.random_range(0..1000) {
            0..120 => self.add(n),
            120..230 => self.del(n),
            230..520 => self.carry(n),
            520..800 => self.reply(n),
            800..930 => self.deliver(n),
            930..990 => self.pass_time(n),
            990..992 => self.crash(n),
            992..994 => self.lose_events(n),
            994..997 => self.edit_pool(),
            997..999 => self.edit_config(),
            _ => self.scan(n),
        }
        self.hear(n);
    }

    fn add(&mut self, n: usize) {
        if self.journals[n].len() < PODS {
            self.pods += 1;
            let handle = format!("{}-{}", self.sim.nodes[n].name, self.pods);
            let id = self.sim.ask(n, &handle);
            self.journals[n].insert(handle, Life::Intent(id));
        }
    }

    fn del(&mut self, n: usize) {
        let attached: Vec<(String, Assigned)> = self.journals[n]
            .iter()
            .filter_map(|(handle, life)| match life {
                Life::Attached(assigned) => Some((handle.clone(), *assigned)),
                Life::Intent(_) | Life::Leaving(_) => None,
            })
            .collect();
        if attached.is_empty() {
            return;
        }
        let (handle, assigned) = attached[self.random.random_range(0..attached.len())].clone();
        assert_eq!(
            self.owners.remove(&assigned.address),
            Some((n, handle.clone()))
        );
        let addresses = if self.random.random_bool(0.8) {
            Addresses::Exactly(vec![taken(assigned)])
        } else {
            Addresses::OfHandle
        };
        self.leave(n, handle, addresses);
    }

    fn leave(&mut self, n: usize, handle: String, addresses: Addresses) {
        let id = self.sim.give(n, &handle, addresses);
        self.journals[n].insert(handle, Life::Leaving(id));
    }

    fn carry(&mut self, n: usize) {
        let open: Vec<usize> = (0..self.sim.nodes[n].calls.len())
            .filter(|k| self.sim.nodes[n].calls[*k].result.is_none())
            .collect();
        if open.is_empty() {
            return;
        }
        let k = open[self.random.random_range(0..open.len())];
        let fault = match self.random.random_range(0..100) {
            0..3 => Fault::Conflict,
            3..5 => Fault::UnknownDone,
            5..7 => Fault::UnknownNotDone,
            _ => Fault::None,
        };
        self.sim.carry(n, k, fault);
    }

    fn reply(&mut self, n: usize) {
        let done: Vec<usize> = (0..self.sim.nodes[n].calls.len())
            .filter(|k| self.sim.nodes[n].calls[*k].result.is_some())
            .collect();
        if !done.is_empty() {
            let k = done[self.random.random_range(0..done.len())];
            self.sim.reply(n, k);
        }
    }

    fn deliver(&mut self, n: usize) {
        let watcher = self.sim.nodes[n].watcher;
        for _ in 0..self.random.random_range(1..8) {
            // A watch is in order; a second one beside it (after a reconnect) may be a little behind.
            let ahead = usize::from(self.random.random_bool(0.05));
            if let Some(event) = self.sim.store.deliver(watcher, ahead) {
                self.sim.feed(n, Input::Event(event));
            }
        }
    }

    fn pass_time(&mut self, n: usize) {
        let span = Duration::from_millis(self.random.random_range(1..400));
        self.sim.now = self.sim.now.plus(span);
        self.sim.feed(n, Input::Tick);
    }

    /// The daemon dies and starts again: calls on their way may land or not, the journal stays.
    fn crash(&mut self, n: usize) {
        self.crashes += 1;
        for k in 0..self.sim.nodes[n].calls.len() {
            if self.sim.nodes[n].calls[k].result.is_none() && self.random.random_bool(0.5) {
                self.sim.carry(n, k, Fault::None);
            }
        }
        self.sim.nodes[n].answers.clear();
        self.sim.boot(n);
        let journal = self.journals[n].clone();
        for (handle, life) in journal {
            match life {
                Life::Attached(_) => {}
                Life::Intent(_) | Life::Leaving(_) => self.leave(n, handle, Addresses::OfHandle),
            }
        }
    }

    /// A node is cut off, comes back, dies for good, or is replaced by a machine of its name that remembers nothing.
    fn fate(&mut self, n: usize) {
        if self.gone.remove(&n) {
            self.sim.boot(n);
        } else if self.away.remove(&n) {
            self.lose_events(n);
        } else if self.random.random_bool(0.5) {
            self.away.insert(n);
        } else if self.away.len() + self.gone.len() + 2 < self.sim.nodes.len() {
            self.die(n);
        }
    }

    fn die(&mut self, n: usize) {
        self.deaths += 1;
        for k in 0..self.sim.nodes[n].calls.len() {
            if self.sim.nodes[n].calls[k].result.is_none() && self.random.random_bool(0.5) {
                self.sim.carry(n, k, Fault::None);
            }
        }
        self.sim.nodes[n].calls.clear();
        self.sim.nodes[n].answers.clear();
        // Without its first list an allocator does nothing: nobody is at home.
        let name = self.sim.nodes[n].name.clone();
        self.sim.nodes[n].alloc = Allocator::new(&name, Settings::default());
        self.owners.retain(|_, (node, _)| *node != n);
        self.journals[n].clear();
        self.gone.insert(n);
    }

    /// One step of the leader: it sees, decides, is answered, or carries a call of an errand out.
    fn lead(&mut self, n: usize) {
        let now = self.sim.now;
        match self.random.random_range(0..16) {
            0..2 => {
                let truth = self.truth();
                let hidden = truth.pods.keys().cloned();
                let hidden = hidden.filter(|_| self.random.random_bool(0.1)).collect();
                self.leader.refresh(&self.sim.store, &truth, &hidden, now);
            }
            2 => self.leader.look(now),
            3..5 if !self.away.contains(&n) && !self.gone.contains(&n) => self.testify(n),
            _ => {
                let mut truth = self.truth();
                truth.api_lies = self.random.random_bool(0.3);
                let fault = match self.random.random_range(0..100) {
                    0..3 => Fault::Conflict,
                    3..5 => Fault::UnknownDone,
                    5..7 => Fault::UnknownNotDone,
                    _ => Fault::None,
                };
                self.leader.step(&mut self.sim.store, &truth, now, fault);
            }
        }
    }

    fn testify(&mut self, n: usize) {
        let name = self.sim.nodes[n].name.clone();
        let journal = &self.journals[n];
        self.leader
            .answer(&name, |handle| journal.contains_key(handle), self.sim.now);
    }

    fn truth(&self) -> Truth {
        let mut truth = Truth::default();
        for (n, node) in self.sim.nodes.iter().enumerate() {
            if self.gone.contains(&n) {
                continue;
            }
            truth.nodes.insert(node.name.clone());
            if !self.away.contains(&n) {
                truth.alive.insert(node.name.clone());
            }
            let leaving = |life: &Life| matches!(life, Life::Leaving(_));
            let pods = self.journals[n].iter().filter(|(_, life)| !leaving(life));
            for (name, _) in pods {
                truth.pods.insert(name.clone(), node.name.clone());
            }
        }
        truth
    }

    fn lose_events(&mut self, n: usize) {
        let watcher = self.sim.nodes[n].watcher;
        let present: Vec<_> = self.sim.store.relist(watcher);
        for event in present {
            self.sim.feed(n, Input::Event(event));
        }
    }

    fn edit_pool(&mut self) {
        let mut edited = pool("q", "10.1.0.0/28", 30);
        edited.disabled = self.random.random_bool(0.3);
        self.sim.set_pool(edited);
    }

    fn edit_config(&mut self) {
        let cooldown = Duration::from_secs(self.random.random_range(0..3));
        let strict = self.random.random_bool(0.3);
        let max_blocks = self.random.random_range(1..20);
        self.sim.set_config(Config {
            strict,
            max_blocks,
            cooldown,
            ..Config::default()
        });
    }

    /// What the index shows under a handle the journal does not know is released.
    fn scan(&mut self, n: usize) {
        if !self.sim.nodes[n].alloc.is_quiet() {
            return;
        }
        let held: Vec<String> = self.sim.nodes[n]
            .alloc
            .index()
            .held()
            .map(|held| held.handle)
            .collect();
        for handle in held {
            if !self.journals[n].contains_key(&handle) {
                self.leave(n, handle, Addresses::OfHandle);
            }
        }
    }

    /// Takes in the answers of a node.
    fn hear(&mut self, n: usize) {
        let answers = std::mem::take(&mut self.sim.nodes[n].answers);
        for (id, answer) in answers {
            let handle = self.journals[n]
                .iter()
                .find(|(_, life)| {
                    matches!(life, Life::Intent(waiting) | Life::Leaving(waiting) if *waiting == id)
                })
                .map(|(handle, _)| handle.clone());
            let Some(handle) = handle else { continue };
            match answer {
                Answer::Assign(Ok(assigned)) => self.attached(n, handle, assigned[0]),
                Answer::Assign(Err(_)) => {
                    self.refused += 1;
                    self.leave(n, handle, Addresses::OfHandle);
                }
                Answer::Release(Ok(_)) => drop(self.journals[n].remove(&handle)),
                Answer::Release(Err(_)) => self.leave(n, handle, Addresses::OfHandle),
            }
        }
        self.sim.nodes[n].notes.clear();
    }

    fn attached(&mut self, n: usize, handle: String, assigned: Assigned) {
        self.answered += 1;
        self.stored(&handle, assigned);
        let other = self.owners.insert(assigned.address, (n, handle.clone()));
        assert_eq!(other, None, "{} has two owners", assigned.address);
        self.journals[n].insert(handle, Life::Attached(assigned));
    }

    fn stored(&self, handle: &str, assigned: Assigned) {
        let block = self.sim.store.block(assigned.block).expect("stored");
        let holder = block.holder(assigned.ordinal).expect("held");
        assert_eq!(holder.handle(), Some(handle));
        assert_eq!(block.sequence_of(assigned.ordinal), assigned.sequence);
    }

    fn check(&self) {
        for block in self.sim.store.blocks() {
            block.check().unwrap();
        }
        for journal in &self.journals {
            for (handle, life) in journal {
                if let Life::Attached(assigned) = life {
                    self.stored(handle, *assigned);
                }
            }
        }
    }

    /// Lets everything come to rest and looks at the books.
    fn rest(&mut self) {
        for n in std::mem::take(&mut self.away) {
            self.lose_events(n);
        }
        let present: Vec<usize> = (0..self.sim.nodes.len())
            .filter(|n| !self.gone.contains(n))
            .collect();
        for _ in 0..20 {
            self.sim.run_for(Duration::from_mins(1));
            let truth = self.truth();
            let now = self.sim.now;
            self.leader
                .refresh(&self.sim.store, &truth, &BTreeSet::new(), now);
            self.leader.look(now);
            for n in &present {
                self.testify(*n);
            }
            while self.leader.is_busy() {
                self.leader
                    .step(&mut self.sim.store, &truth, now, Fault::None);
            }
            for n in &present {
                self.hear(*n);
                self.scan(*n);
            }
            self.sim.calls_done.clear();
        }
        self.check();
        let nodes = &self.sim.nodes;
        let pods = self.journals.iter().zip(nodes).flat_map(|(journal, node)| {
            journal.keys().map(|name| Pod {
                namespace: "default".to_owned(),
                name: name.clone(),
                node: node.name.clone(),
                addresses: Vec::new(),
                finished: false,
                host_network: false,
            })
        });
        let findings = self.sim.audit(pods.collect());
        assert_eq!(findings, Vec::<Finding>::new());
        assert_eq!(self.sim.held().len(), self.owners.len());
        for n in &self.gone {
            let name = &self.sim.nodes[*n].name;
            assert!(self.sim.store.blocks().all(|block| !block.is_of(name)));
        }
    }
}

#[test]
fn a_long_random_walk_keeps_one_owner_per_address() {
    let steps = number("IPAM_STEPS").unwrap_or(STEPS);
    let seeds: Vec<u64> = match number("IPAM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=SEEDS).collect(),
    };
    for seed in &seeds {
        println!("IPAM_SEED={seed}");
        let mut walk = Walk::new(*seed);
        for step in 0..steps / seeds.len() as u64 {
            walk.step();
            if step % 1000 == 0 {
                walk.check();
            }
        }
        walk.rest();
        println!(
            "{} nodes: {} addresses answered, {} refused, {} crashes, {} deaths, {} freed by the leader, {} writes, {} reads",
            walk.sim.nodes.len(),
            walk.answered,
            walk.refused,
            walk.crashes,
            walk.deaths,
            walk.leader.freed,
            walk.sim.store.writes(),
            walk.sim.store.reads()
        );
        assert!(walk.answered > 0);
        assert!(walk.deaths == 0 || walk.leader.freed > 0);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a walk is replayed by a variable"
)]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
