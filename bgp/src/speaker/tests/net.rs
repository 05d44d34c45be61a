//! Speakers on wires without sockets: octets arrive in any portions, calls fail, connections break, time is scripted.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::session::{ConnId, State};
use crate::speaker::*;
use crate::{Asn, Family, Speaker};

/// What the wires do, in percent.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) refuse: u32,
    pub(super) cut: u32,
}

pub(super) struct Host {
    pub(super) speaker: Option<Speaker>,
    pub(super) address: IpAddr,
    pub(super) events: Vec<Event>,
    /// Takes no octets: a peer that does not read.
    pub(super) stuck: bool,
    routes: BTreeMap<IpNet, BestRoute>,
    pub(super) removed: Vec<IpNet>,
    pub(super) synced: bool,
    reader: Option<FibConsumer>,
}

struct End {
    host: usize,
    conn: ConnId,
    /// On their way to this end.
    inbox: VecDeque<Bytes>,
    /// The other end closed: after `inbox`, this end learns it.
    closing: bool,
    open: bool,
}

pub(super) struct Net {
    pub(super) hosts: Vec<Host>,
    pipes: Vec<[End; 2]>,
    pub(super) now: Instant,
    pub(super) faults: Faults,
    rng: SmallRng,
    port: u16,
}

pub(super) fn address(host: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(host).unwrap() + 1))
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A peer that dials every second.
pub(super) fn peer(asn: u32) -> Peer {
    Peer {
        connect_retry: Duration::from_secs(1),
        ..Peer::new(Asn(asn))
    }
}

impl Net {
    #[expect(
        clippy::disallowed_methods,
        reason = "an arbitrary beginning of scripted time"
    )]
    pub(super) fn new(hosts: usize, seed: u64) -> Self {
        let host = |index| Host {
            speaker: None,
            address: address(index),
            events: vec![],
            stuck: false,
            routes: BTreeMap::new(),
            removed: vec![],
            synced: false,
            reader: None,
        };
        Self {
            hosts: (0..hosts).map(host).collect(),
            pipes: vec![],
            now: Instant::now(),
            faults: Faults::default(),
            rng: SmallRng::seed_from_u64(seed),
            port: 1024,
        }
    }

    /// A router with these peers (by host), announcing `prefixes`.
    pub(super) fn start(
        &mut self,
        host: usize,
        asn: u32,
        peers: &[(usize, Peer)],
        prefixes: &[&str],
    ) {
        self.start_with(host, asn, peers, prefixes, Settings::default());
    }

    pub(super) fn start_with(
        &mut self,
        host: usize,
        asn: u32,
        peers: &[(usize, Peer)],
        prefixes: &[&str],
        settings: Settings,
    ) {
        let seed = self.rng.random();
        let mut speaker = Speaker::new(settings, seed);
        let originate = |prefix: &&str| Origination {
            owner: Arc::from("test"),
            prefix: net(prefix),
            attributes: OriginAttributes::default(),
        };
        let add = prefixes.iter().map(originate).collect();
        speaker.originate(
            OriginateDiff {
                add,
                remove: vec![],
            },
            self.now,
        );
        let place = &mut self.hosts[host];
        place.reader = Some(speaker.fib_subscribe());
        place.synced = false;
        place.speaker = Some(speaker);
        self.reconcile(host, asn, peers);
    }

    pub(super) fn reconcile(&mut self, host: usize, asn: u32, peers: &[(usize, Peer)]) -> Plan {
        let IpAddr::V4(router_id) = address(host) else {
            panic!("lab addresses are IPv4")
        };
        let desired = Desired {
            global: Global::new(Asn(asn), router_id),
            peers: peers
                .iter()
                .map(|(host, peer)| (PeerKey::Addr(address(*host)), peer.clone()))
                .collect(),
        };
        let now = self.now;
        let plan = self.speaker(host).reconcile(desired, now);
        self.settle();
        plan
    }

    pub(super) fn speaker(&mut self, host: usize) -> &mut Speaker {
        self.hosts[host].speaker.as_mut().unwrap()
    }

    pub(super) fn status(&self, host: usize, other: usize) -> PeerStatus {
        let table = self.hosts[host].speaker.as_ref().unwrap().peers(self.now);
        table
            .peers
            .get(&PeerKey::Addr(address(other)))
            .unwrap()
            .clone()
    }

    pub(super) fn state(&self, host: usize, other: usize) -> State {
        self.status(host, other).state
    }

    pub(super) fn route(&self, host: usize, prefix: &str) -> Option<&BestRoute> {
        self.hosts[host].routes.get(&net(prefix))
    }

    /// The process dies: its connections end without a word.
    pub(super) fn kill(&mut self, host: usize) {
        self.hosts[host].speaker = None;
        for pipe in 0..self.pipes.len() {
            for side in 0..2 {
                if self.pipes[pipe][side].host == host {
                    self.pipes[pipe][side].open = false;
                    self.pipes[pipe][1 - side].closing = true;
                }
            }
        }
        self.settle();
    }

    /// Octets and calls go through until nothing moves; no time passes.
    pub(super) fn settle(&mut self) {
        loop {
            let mut moved = false;
            for host in 0..self.hosts.len() {
                while let Some(output) = self.hosts[host]
                    .speaker
                    .as_mut()
                    .and_then(Speaker::poll_output)
                {
                    moved = true;
                    self.perform(host, output);
                }
                self.read_fib(host);
            }
            moved |= self.deliver_one();
            if !moved {
                return;
            }
        }
    }

    /// Time passes; timers act when they are due.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let deadlines = self
                .hosts
                .iter()
                .filter_map(|host| host.speaker.as_ref()?.next_deadline());
            let next = deadlines.min().map_or(end, |at| at.max(self.now)).min(end);
            if next == self.now && next != end {
                // A deadline that stays due although it was served would spin: make it visible.
                self.tick();
                let again = self
                    .hosts
                    .iter()
                    .filter_map(|host| host.speaker.as_ref()?.next_deadline())
                    .min();
                assert!(
                    again.is_none_or(|at| at > self.now),
                    "a timer that was served is still due"
                );
                continue;
            }
            self.now = next;
            self.tick();
            if self.now == end {
                self.settle();
                return;
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        for host in 0..self.hosts.len() {
            if let Some(speaker) = &mut self.hosts[host].speaker {
                speaker.handle(Input::Tick, now);
            }
        }
        self.settle();
    }

    fn perform(&mut self, host: usize, output: Output) {
        match output {
            Output::Connect(request) => self.connect(host, &request),
            Output::Send { conn, octets } => self.send(host, conn, octets),
            Output::Close { conn } => self.close(host, conn, false),
            Output::Abort { conn } => self.close(host, conn, true),
            Output::Key(_) => {}
            Output::Event(event) => self.hosts[host].events.push(event),
        }
    }

    fn connect(&mut self, host: usize, request: &ConnectRequest) {
        let now = self.now;
        self.port = self.port.wrapping_add(1).max(1024);
        let local = SocketAddr::new(self.hosts[host].address, self.port);
        let target = self
            .hosts
            .iter()
            .position(|other| other.address == request.remote.ip());
        let lucky = self.rng.random_range(0..100) >= self.faults.refuse;
        let accepted = target.filter(|_| lucky).and_then(|target| {
            let (conn, _) =
                self.hosts[target]
                    .speaker
                    .as_mut()?
                    .accept(request.remote, local, now)?;
            Some((target, conn))
        });
        let conn = request.conn;
        if let Some((target, theirs)) = accepted {
            let end = |host, conn| End {
                host,
                conn,
                inbox: VecDeque::new(),
                closing: false,
                open: true,
            };
            self.pipes.push([end(host, conn), end(target, theirs)]);
            let input = Input::Connected {
                conn,
                local,
                remote: request.remote,
            };
            self.speaker(host).handle(input, now);
        } else {
            let error = Arc::from("refused");
            self.speaker(host)
                .handle(Input::ConnectFailed { conn, error }, now);
        }
    }

    fn find(&self, host: usize, conn: ConnId) -> Option<(usize, usize)> {
        self.pipes.iter().enumerate().find_map(|(pipe, ends)| {
            let side = ends
                .iter()
                .position(|end| end.host == host && end.conn == conn && end.open)?;
            Some((pipe, side))
        })
    }

    fn send(&mut self, host: usize, conn: ConnId, octets: Bytes) {
        let Some((pipe, side)) = self.find(host, conn) else {
            return;
        };
        let length = octets.len();
        self.pipes[pipe][1 - side].inbox.push_back(octets);
        if !self.hosts[self.pipes[pipe][1 - side].host].stuck {
            let now = self.now;
            self.speaker(host).handle(
                Input::Sent {
                    conn,
                    octets: length,
                },
                now,
            );
        }
    }

    fn close(&mut self, host: usize, conn: ConnId, at_once: bool) {
        let Some((pipe, side)) = self.find(host, conn) else {
            return;
        };
        self.pipes[pipe][side].open = false;
        let other = &mut self.pipes[pipe][1 - side];
        other.closing = true;
        if at_once {
            other.inbox.clear();
        }
    }

    /// Delivers a portion of what waits on some connection; whether anything waited.
    fn deliver_one(&mut self) -> bool {
        self.pipes.retain(|[one, other]| one.open || other.open);
        let now = self.now;
        let waits = |end: &End, hosts: &[Host]| {
            end.open && !hosts[end.host].stuck && (end.closing || !end.inbox.is_empty())
        };
        let ready: Vec<(usize, usize)> = (0..self.pipes.len())
            .flat_map(|pipe| [(pipe, 0), (pipe, 1)])
            .filter(|(pipe, side)| waits(&self.pipes[*pipe][*side], &self.hosts))
            .collect();
        if ready.is_empty() {
            return false;
        }
        let (pipe, side) = ready[self.rng.random_range(0..ready.len())];
        let cut = self.rng.random_range(0..100) < self.faults.cut;
        let portion = self.rng.random_range(1..200);
        let end = &mut self.pipes[pipe][side];
        let (host, conn) = (end.host, end.conn);
        let input = match end.inbox.pop_front() {
            Some(_) if cut => {
                end.open = false;
                let other = &mut self.pipes[pipe][1 - side];
                other.closing = true;
                other.inbox.clear();
                Input::Closed {
                    conn,
                    error: Some(Arc::from("cut")),
                }
            }
            Some(mut octets) => {
                if octets.len() > portion {
                    let rest = octets.split_off(portion);
                    end.inbox.push_front(rest);
                }
                Input::Received { conn, octets }
            }
            None => {
                end.open = false;
                Input::Closed { conn, error: None }
            }
        };
        if let Some(speaker) = &mut self.hosts[host].speaker {
            speaker.handle(input, now);
        }
        true
    }

    fn read_fib(&mut self, host: usize) {
        let place = &mut self.hosts[host];
        let (Some(speaker), Some(reader)) = (&mut place.speaker, place.reader) else {
            return;
        };
        while let Some(update) = speaker.fib_poll(reader, 7) {
            match update {
                FibUpdate::Synced(family) => place.synced |= family == Family::Ipv4Unicast,
                FibUpdate::Changes(batch) => {
                    for (prefix, route) in batch.changes {
                        match route {
                            Some(route) => drop(place.routes.insert(prefix, route)),
                            None => {
                                if place.routes.remove(&prefix).is_some() {
                                    place.removed.push(prefix);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Net {
    /// A stuck host reads again: what it was sent counts as taken.
    pub(super) fn unstick(&mut self, host: usize) {
        self.hosts[host].stuck = false;
        let now = self.now;
        for pipe in 0..self.pipes.len() {
            for side in 0..2 {
                if self.pipes[pipe][side].host == host {
                    let octets = self.pipes[pipe][side].inbox.iter().map(Bytes::len).sum();
                    let (other, conn) = (
                        self.pipes[pipe][1 - side].host,
                        self.pipes[pipe][1 - side].conn,
                    );
                    self.speaker(other)
                        .handle(Input::Sent { conn, octets }, now);
                }
            }
        }
        self.settle();
    }
}
