//! IPAM, kernel and World in memory, which can be slow, away or unwilling on command.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cni_plugin::spec::Families;
use futures::FutureExt;
use futures::future::BoxFuture;
use model::{AttachmentId, LocalEndpoint, Namespace, Pod, PodRef};

use crate::cni::record::{Claim, Mac, Place, Sandbox};
use crate::cni::seams::{
    Addresses, Ask, Cluster, Holding, HostLink, Kernel, Plumbed, Plumbing, Refusal, SandboxLink,
    Unplumbed, Unreleased,
};
use crate::world::{CniSettings, PodView, SyncState, Unprogrammed};

/// What one handle holds: its addresses and owner attributes.
pub(super) type Hold = (Vec<Claim>, BTreeMap<String, String>);

/// What a test may turn.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own that a test turns"
)]
pub(super) struct State {
    pub(super) in_sync: bool,
    pub(super) api_away: bool,
    pub(super) mtu: u32,
    pub(super) free: u32,
    pub(super) assign_takes: Duration,
    pub(super) program_takes: Duration,
    pub(super) program_refused: bool,
    pub(super) attach_fails: Option<Unplumbed>,
    pub(super) detach_fails: bool,
    pub(super) unknown_pods: bool,
    pub(super) host_network: bool,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) held: BTreeMap<Arc<str>, Hold>,
    pub(super) links: BTreeMap<String, Link>,
    pub(super) endpoints: BTreeMap<AttachmentId, LocalEndpoint>,
    pub(super) programs: u32,
    pub(super) most_at_once: u32,
    pub(super) at_once: u32,
    next_address: u8,
    next_index: u32,
    sequence: u64,
}

/// One link pair.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) host: HostLink,
    pub(super) addresses: Vec<IpAddr>,
    sandbox: Option<Sandbox>,
}

#[derive(Debug)]
pub(super) struct Fakes(Mutex<State>);

impl Fakes {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            in_sync: true,
            api_away: false,
            mtu: 1450,
            free: 64,
            assign_takes: Duration::ZERO,
            program_takes: Duration::ZERO,
            program_refused: false,
            attach_fails: None,
            detach_fails: false,
            unknown_pods: false,
            host_network: false,
            annotations: BTreeMap::new(),
            held: BTreeMap::new(),
            links: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            programs: 0,
            most_at_once: 0,
            at_once: 0,
            next_address: 0,
            next_index: 100,
            sequence: 1000,
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The World lives in the daemon's memory only.
    pub(super) fn forget_world(&self) {
        self.state().endpoints.clear();
    }

    /// Every namespace of a container ends with a reboot, and its link with it.
    pub(super) fn reboot(&self) {
        let mut state = self.state();
        state.links.clear();
        state.endpoints.clear();
    }

    pub(super) fn assert_empty(&self) {
        let state = self.state();
        assert!(state.held.is_empty(), "addresses left: {:?}", state.held);
        assert!(state.links.is_empty(), "links left: {:?}", state.links);
        assert!(
            state.endpoints.is_empty(),
            "endpoints left: {:?}",
            state.endpoints
        );
    }
}

fn away() -> String {
    "the API server does not answer".to_owned()
}

impl Addresses for Fakes {
    fn assign(&self, ask: Ask) -> BoxFuture<'_, Result<Vec<Claim>, Refusal>> {
        async move {
            let takes = self.state().assign_takes;
            tokio::time::sleep(takes).await;
            let mut state = self.state();
            if state.api_away {
                return Err(Refusal::Later(away()));
            }
            if let Some((claims, _)) = state.held.get(&ask.handle) {
                return Ok(claims.clone());
            }
            if state.free == 0 {
                return Err(Refusal::Exhausted(
                    "pool default has no free address".into(),
                ));
            }
            state.free -= 1;
            state.next_address += 1;
            state.sequence += 1;
            let ordinal = u32::from(state.next_address);
            let claim = Claim {
                address: Ipv4Addr::new(10, 65, 0, state.next_address).into(),
                place: Some(Place {
                    block: "10.65.0.0/26".parse().unwrap(),
                    ordinal,
                    sequence: state.sequence,
                }),
            };
            state
                .held
                .insert(ask.handle, (vec![claim.clone()], ask.attributes));
            Ok(vec![claim])
        }
        .boxed()
    }

    fn release(
        &self,
        handle: Arc<str>,
        claims: Vec<Claim>,
    ) -> BoxFuture<'_, Result<(), Unreleased>> {
        async move {
            let mut state = self.state();
            if state.api_away {
                return Err(Unreleased {
                    retryable: true,
                    reason: away(),
                });
            }
            let Some((held, _)) = state.held.get_mut(&handle) else {
                return Ok(());
            };
            let before = held.len();
            held.retain(|claim| !(claims.is_empty() || claims.contains(claim)));
            let given_back = u32::try_from(before - held.len()).unwrap();
            if held.is_empty() {
                state.held.remove(&handle);
            }
            state.free += given_back;
            Ok(())
        }
        .boxed()
    }

    fn holdings(&self) -> BoxFuture<'_, Result<Vec<Holding>, String>> {
        async move {
            let state = self.state();
            let of = |(handle, (claims, attributes)): (&Arc<str>, &Hold)| {
                claims
                    .iter()
                    .map(|claim| Holding {
                        handle: Arc::clone(handle),
                        claim: claim.clone(),
                        attributes: attributes.clone(),
                    })
                    .collect::<Vec<_>>()
            };
            Ok(state.held.iter().flat_map(of).collect())
        }
        .boxed()
    }

    fn living(&self, living: Vec<Holding>) -> BoxFuture<'_, Result<(), String>> {
        async move {
            let mut state = self.state();
            for one in living {
                let stock = |(handle, (claims, _)): (&Arc<str>, &Hold)| {
                    (crate::ipam::is_warm(handle) && claims.contains(&one.claim))
                        .then(|| Arc::clone(handle))
                };
                let Some(handle) = state.held.iter().find_map(stock) else {
                    continue;
                };
                if let Some((claims, _)) = state.held.get_mut(&handle) {
                    claims.retain(|claim| *claim != one.claim);
                }
                let held = state.held.entry(one.handle).or_default();
                held.0.push(one.claim);
                held.1 = one.attributes;
            }
            Ok(())
        }
        .boxed()
    }

    fn serviceable(&self, _families: Families) -> BoxFuture<'_, Result<(), String>> {
        async move {
            if self.state().free > 0 {
                Ok(())
            } else {
                Err("pool default has no free address".into())
            }
        }
        .boxed()
    }
}

impl Kernel for Fakes {
    fn attach(
        &self,
        plumbing: Plumbing,
        sandbox: OwnedFd,
    ) -> BoxFuture<'_, Result<Plumbed, Unplumbed>> {
        async move {
            {
                let mut state = self.state();
                state.at_once += 1;
                state.most_at_once = state.most_at_once.max(state.at_once);
            }
            tokio::task::yield_now().await;
            let mut state = self.state();
            state.at_once -= 1;
            if let Some(failure) = state.attach_fails.clone() {
                return Err(failure);
            }
            if state.links.contains_key(&*plumbing.host) {
                return Err(Unplumbed::Exists(format!("{} exists", plumbing.host)));
            }
            state.next_index += 1;
            let ifindex = state.next_index;
            let host = HostLink {
                ifindex,
                alias: plumbing.alias,
                up: false,
            };
            let sandbox = crate::cni::sandbox::identify(&sandbox).ok();
            let link = Link {
                host,
                addresses: plumbing.addresses,
                sandbox,
            };
            state.links.insert(plumbing.host.to_string(), link);
            Ok(Plumbed {
                ifindex,
                mac: Mac([2, 0, 0, 0, 0, 7]),
                mtu: plumbing.mtu,
            })
        }
        .boxed()
    }

    fn settled(
        &self,
        _sandbox: OwnedFd,
        _ifname: Arc<str>,
        _within: Duration,
    ) -> BoxFuture<'_, Result<bool, String>> {
        async { Ok(true) }.boxed()
    }

    fn detach(&self, host: Arc<str>, ifindex: u32) -> BoxFuture<'_, Result<(), String>> {
        async move {
            let mut state = self.state();
            if state.detach_fails {
                return Err("Device or resource busy".into());
            }
            let matches = |link: &HostLink| ifindex == 0 || link.ifindex == ifindex;
            if state
                .links
                .get(&*host)
                .is_some_and(|link| matches(&link.host))
            {
                state.links.remove(&*host);
            }
            Ok(())
        }
        .boxed()
    }

    fn links(&self, _prefix: &str) -> BoxFuture<'_, Result<BTreeMap<String, HostLink>, String>> {
        async move {
            Ok(self
                .state()
                .links
                .iter()
                .map(|(name, link)| (name.clone(), link.host.clone()))
                .collect())
        }
        .boxed()
    }

    fn link(&self, host: Arc<str>) -> BoxFuture<'_, Result<Option<HostLink>, String>> {
        async move { Ok(self.state().links.get(&*host).map(|link| link.host.clone())) }.boxed()
    }

    fn routed(&self, _prefix: &str) -> BoxFuture<'_, Result<BTreeMap<u32, Vec<IpAddr>>, String>> {
        async move {
            let state = self.state();
            Ok(state
                .links
                .values()
                .map(|link| (link.host.ifindex, link.addresses.clone()))
                .collect())
        }
        .boxed()
    }

    fn inspect(
        &self,
        sandbox: OwnedFd,
        _ifname: Arc<str>,
    ) -> BoxFuture<'_, Result<Option<SandboxLink>, String>> {
        async move {
            let wanted = crate::cni::sandbox::identify(&sandbox).ok();
            let state = self.state();
            Ok(state
                .links
                .values()
                .find(|link| link.sandbox == wanted)
                .map(|link| SandboxLink {
                    up: true,
                    mac: Mac([2, 0, 0, 0, 0, 7]),
                    addresses: link
                        .addresses
                        .iter()
                        .map(|address| (*address).into())
                        .collect(),
                    gateway_v4: true,
                    gateway_v6: link.addresses.iter().any(IpAddr::is_ipv6),
                }))
        }
        .boxed()
    }
}

impl Fakes {
    fn view(state: &State, id: &PodRef) -> PodView {
        let tail = id.name.as_str().trim_start_matches("web-");
        PodView {
            pod: Pod {
                id: id.clone(),
                uid: format!("uid-{tail}").into(),
                node: Some("n1".into()),
                labels: BTreeMap::new(),
                annotations: state.annotations.clone(),
                service_account: None,
                ips: Vec::new(),
                finished: false,
                terminating: false,
                host_network: state.host_network,
                ports: Vec::new(),
            },
            namespace: Some(Namespace {
                name: id.namespace.clone(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                terminating: false,
            }),
        }
    }
}

impl Cluster for Fakes {
    fn sync(&self) -> SyncState {
        let state = self.state();
        SyncState {
            in_sync: state.in_sync,
            api_reachable: !state.api_away,
            kernel_ok: true,
            reason: if state.in_sync {
                String::new()
            } else {
                "Pod".into()
            },
        }
    }

    fn settings(&self) -> CniSettings {
        CniSettings {
            node: "n1".into(),
            interface_prefix: "cali".into(),
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            mtu: self.state().mtu,
            ip_forwarding: false,
        }
    }

    fn pod(&self, id: PodRef) -> BoxFuture<'_, Option<PodView>> {
        async move {
            let state = self.state();
            (!state.unknown_pods).then(|| Self::view(&state, &id))
        }
        .boxed()
    }

    fn fetch_pod(&self, id: PodRef) -> BoxFuture<'_, Result<Option<PodView>, String>> {
        async move {
            let state = self.state();
            if state.api_away {
                return Err(away());
            }
            Ok((!state.unknown_pods).then(|| Self::view(&state, &id)))
        }
        .boxed()
    }

    fn program(&self, endpoint: LocalEndpoint) -> BoxFuture<'_, Result<(), Unprogrammed>> {
        async move {
            let takes = {
                let mut state = self.state();
                state.programs += 1;
                state
                    .endpoints
                    .insert(endpoint.id.clone(), endpoint.clone());
                state.program_takes
            };
            tokio::time::sleep(takes).await;
            let mut state = self.state();
            if state.program_refused {
                return Err(Unprogrammed::Refused {
                    domain: "policy",
                    reason: "Numerical result out of range".into(),
                });
            }
            if let Some(link) = state.links.get_mut(&*endpoint.interface) {
                link.host.up = true;
            }
            Ok(())
        }
        .boxed()
    }

    fn withdraw(&self, id: AttachmentId) -> BoxFuture<'_, Result<(), Unprogrammed>> {
        async move {
            self.state().endpoints.remove(&id);
            Ok(())
        }
        .boxed()
    }

    fn adopt(&self, endpoints: Vec<LocalEndpoint>) -> BoxFuture<'_, Result<(), Unprogrammed>> {
        async move {
            let mut state = self.state();
            let ids: BTreeSet<_> = endpoints
                .iter()
                .map(|endpoint| endpoint.id.clone())
                .collect();
            assert_eq!(ids.len(), endpoints.len(), "one endpoint a key");
            state.endpoints.extend(
                endpoints
                    .into_iter()
                    .map(|endpoint| (endpoint.id.clone(), endpoint)),
            );
            Ok(())
        }
        .boxed()
    }
}
