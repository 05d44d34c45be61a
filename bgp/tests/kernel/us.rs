//! Our side: a running speaker with one peer, and what its reader of best routes saw.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::io::{FibReader, Handle, ListenConfig};
use bgp::speaker::{
    BestRoute, Desired, Drain, FibUpdate, Global, OriginAttributes, OriginateDiff, Origination,
    Peer, PeerKey, PeerStatus, Plan, Restarting, Settings,
};
use bgp::{Asn, Family, FamilySet, Speaker};
use ipnet::IpNet;
use tokio::task::JoinHandle;

use crate::OURS;
use crate::net::Lab;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Us {
    handle: Handle,
    driver: JoinHandle<()>,
    fib: FibReader,
    key: PeerKey,
    routes: BTreeMap<IpNet, BestRoute>,
    removals: BTreeMap<IpNet, usize>,
    synced: bool,
}

impl Us {
    pub(crate) async fn start(lab: &Lab, peer: Peer, restarting: Option<FamilySet>) -> Self {
        let restarting = restarting.map(|forwarding| Restarting { forwarding });
        let speaker = Speaker::new(
            Settings {
                restarting,
                ..Settings::default()
            },
            7,
        );
        let listen = ListenConfig {
            addresses: vec![SocketAddr::new(lab.ours, 179)],
        };
        let (handle, driver) = bgp::io::spawn(speaker, &listen).unwrap();
        let origination = Origination {
            owner: Arc::from("ipam"),
            prefix: OURS.parse().unwrap(),
            attributes: OriginAttributes::default(),
        };
        handle
            .originate(OriginateDiff {
                add: vec![origination],
                remove: vec![],
            })
            .await
            .unwrap();
        let fib = handle.fib_changes().await.unwrap();
        let mut us = Self {
            handle,
            driver,
            fib,
            key: PeerKey::Addr(lab.theirs),
            routes: BTreeMap::new(),
            removals: BTreeMap::new(),
            synced: false,
        };
        us.reconcile(peer).await;
        us
    }

    pub(crate) async fn reconcile(&mut self, peer: Peer) -> Plan {
        let desired = Desired {
            global: Global::new(Asn(64512), Ipv4Addr::new(10, 0, 0, 1)),
            peers: BTreeMap::from([(self.key.clone(), peer)]),
        };
        self.handle.reconcile(desired).await.unwrap()
    }

    pub(crate) async fn withdraw_ours(&self) {
        let remove = vec![(Arc::from("ipam"), OURS.parse().unwrap())];
        self.handle
            .originate(OriginateDiff {
                add: vec![],
                remove,
            })
            .await
            .unwrap();
    }

    pub(crate) fn status(&self) -> PeerStatus {
        self.handle
            .peers()
            .borrow()
            .peers
            .get(&self.key)
            .unwrap()
            .clone()
    }

    pub(crate) fn route(&self, prefix: &str) -> Option<&BestRoute> {
        self.routes.get(&prefix.parse().unwrap())
    }

    pub(crate) fn removals(&self, prefix: &str) -> usize {
        self.removals
            .get(&prefix.parse().unwrap())
            .copied()
            .unwrap_or(0)
    }

    pub(crate) async fn wait_for_route(&mut self, prefix: &str) {
        self.wait_for(&format!("route to {prefix}"), |us| {
            us.route(prefix).is_some()
        })
        .await;
    }

    pub(crate) async fn wait_for_no_route(&mut self, prefix: &str) {
        self.wait_for(&format!("no route to {prefix}"), |us| {
            us.route(prefix).is_none()
        })
        .await;
    }

    pub(crate) async fn wait_for_synced(&mut self) {
        self.wait_for("all routes delivered", |us| us.synced).await;
    }

    pub(crate) async fn wait(&mut self, what: &str, holds: impl Fn(&PeerStatus) -> bool) {
        self.wait_for(what, |us| holds(&us.status())).await;
    }

    pub(crate) async fn wait_for(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        let mut events = self.handle.events();
        while !holds(self) {
            while let Ok(event) = events.try_recv() {
                println!("{:?} EVENT {event:?}", begun.elapsed());
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "timed out: {what}; {:?}",
                self.status()
            );
            match tokio::time::timeout(Duration::from_millis(50), self.fib.next()).await {
                Ok(Some(update)) => self.take_in(update),
                Ok(None) => panic!("the speaker stopped"),
                Err(_) => {}
            }
        }
    }

    fn take_in(&mut self, update: FibUpdate) {
        match update {
            FibUpdate::Changes(batch) => {
                for (prefix, route) in batch.changes {
                    match route {
                        Some(route) => drop(self.routes.insert(prefix, route)),
                        None => {
                            if self.routes.remove(&prefix).is_some() {
                                *self.removals.entry(prefix).or_default() += 1;
                            }
                        }
                    }
                }
            }
            FibUpdate::Synced(family) => self.synced |= family == Family::Ipv4Unicast,
        }
    }

    pub(crate) async fn shutdown(self, drain: Drain) {
        self.handle.shutdown(drain).await.unwrap();
        self.driver.await.unwrap();
    }
}

/// The address of a host of the lab.
pub(crate) fn text(address: IpAddr) -> String {
    address.to_string()
}
