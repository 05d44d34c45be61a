//! Sessions with BIRD and FRR in network namespaces: real sockets, real peers.
//!
//! Runs as root: each test makes its own network and mount namespace. Without root, or without the daemons, it prints
//! why it is skipped.
#![cfg(feature = "io")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests run daemons and wait for them"
)]
#![expect(
    clippy::print_stdout,
    reason = "what happened, shown when a test fails; why one was skipped"
)]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod bird;
mod frr;
mod net;
mod us;

use std::time::Duration;

use bgp::filter::Filter;
use bgp::session::{DownReason, State};
use bgp::speaker::{ConnectMode, Drain, HoldTime, Hops, Password, Peer};
use bgp::{Asn, Family, FamilySet};

use self::net::{Lab, requires};
use self::us::Us;

const OURS: &str = "10.244.1.0/26";
const THEIRS: &str = "203.0.113.0/24";

/// A router to talk to, whichever program it is.
trait Router {
    /// Starts it.
    fn start(lab: &Lab, options: &Options) -> Self;
    /// Whether it has a route to `prefix`.
    fn has_route(&self, prefix: &str) -> bool;
    /// Text that changes when the route to `prefix` was removed and added again.
    fn route_identity(&self, prefix: &str) -> Option<String>;
    /// Whether two identities mean that the route stood all the time.
    fn is_same_route(&self, before: &str, now: &str) -> bool {
        before == now
    }
    /// Asks us for our routes.
    fn ask_refresh(&self);
    /// Ends it without a word.
    fn crash(&mut self);
    /// Stops its process where it is.
    fn freeze(&self);
}

/// How the router is configured.
#[derive(Clone)]
struct Options {
    asn: u32,
    password: Option<&'static str>,
    hold: u16,
    /// GTSM with one hop.
    ttl_security: bool,
    /// It is a restart whose forwarding state survived.
    recovers: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            asn: 65010,
            password: None,
            hold: 9,
            ttl_security: false,
            recovers: false,
        }
    }
}

fn peer(options: &Options) -> Peer {
    let mut peer = Peer::new(Asn(options.asn));
    peer.hold_time = HoldTime::from_secs(options.hold).unwrap();
    peer.connect_retry = Duration::from_secs(1);
    peer.password = options.password.map(|key| Password::try_new(key).unwrap());
    peer
}

async fn exchanges_routes<R: Router>(options: Options) {
    let lab = Lab::new();
    let router = R::start(&lab, &options);
    let mut us = Us::start(&lab, peer(&options), None).await;
    us.wait_for_route(THEIRS).await;
    let route = us.route(THEIRS).unwrap();
    assert_eq!(route.next_hops.first().unwrap().address, lab.theirs);
    let path: &[Asn] = if options.asn == 64512 {
        &[]
    } else {
        &[Asn(options.asn)]
    };
    assert_eq!(&*route.as_path, path);
    lab.wait("the router has our route", || router.has_route(OURS))
        .await;
    us.withdraw_ours().await;
    lab.wait("the router forgets our route", || !router.has_route(OURS))
        .await;
    us.shutdown(Drain::Shutdown {
        text: "maintenance".into(),
    })
    .await;
}

async fn refreshes<R: Router>() {
    let lab = Lab::new();
    let options = Options::default();
    let router = R::start(&lab, &options);
    let mut us = Us::start(&lab, peer(&options), None).await;
    us.wait_for_route(THEIRS).await;
    lab.wait("the router has our route", || router.has_route(OURS))
        .await;
    let before = us.status().counters.updates_out;
    router.ask_refresh();
    us.wait("our routes are sent again", |status| {
        status.counters.updates_out > before
    })
    .await;

    let mut rejecting = peer(&options);
    rejecting.import = Filter::reject_all();
    let plan = us.reconcile(rejecting).await;
    assert_eq!(plan.refresh.len(), 1, "an import edit refreshes: {plan:?}");
    us.wait_for_no_route(THEIRS).await;
    let plan = us.reconcile(peer(&options)).await;
    assert_eq!(plan.refresh.len(), 1);
    us.wait_for_route(THEIRS).await;
    assert_eq!(us.status().counters.flaps, 0, "policy edits never bounce");
    us.shutdown(Drain::Restart).await;
}

async fn md5<R: Router>() {
    let lab = Lab::new();
    let options = Options {
        password: Some("s3cret"),
        ..Options::default()
    };
    let router = R::start(&lab, &options);
    let mut wrong = peer(&options);
    wrong.password = Some(Password::try_new("other").unwrap());
    let mut us = Us::start(&lab, wrong, None).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(
        us.status().state < State::OpenSent,
        "a wrong key must not connect: {:?}",
        us.status().state
    );
    let plan = us.reconcile(peer(&options)).await;
    assert_eq!(
        plan.soft.len(),
        1,
        "a changed key is a soft change: {plan:?}"
    );
    us.wait_for_route(THEIRS).await;
    lab.wait("the router has our route", || router.has_route(OURS))
        .await;
    us.shutdown(Drain::Restart).await;
}

/// The router calls, we only listen: keys and TTL handling of accepted connections.
async fn calls_us<R: Router>() {
    let lab = Lab::new();
    let options = Options {
        password: Some("s3cret"),
        ttl_security: true,
        ..Options::default()
    };
    let mut passive = peer(&options);
    passive.connect = ConnectMode::Passive;
    passive.hops = Hops::Security(1);
    let mut us = Us::start(&lab, passive, None).await;
    let router = R::start(&lab, &options);
    us.wait_for_route(THEIRS).await;
    us.wait("the router called", |status| {
        status.local.is_some_and(|local| local.port() == 179)
    })
    .await;
    lab.wait("the router has our route", || router.has_route(OURS))
        .await;
    us.shutdown(Drain::Restart).await;
}

/// We go and come back: the router keeps our route all the time.
async fn survives_our_restart<R: Router>() {
    let lab = Lab::new();
    let options = Options::default();
    let router = R::start(&lab, &options);
    let mut us = Us::start(&lab, peer(&options), None).await;
    us.wait_for_route(THEIRS).await;
    lab.wait("the router has our route", || router.has_route(OURS))
        .await;
    us.wait("the router offers graceful restart", |status| {
        status.restart.peer_keeps.contains(Family::Ipv4Unicast)
    })
    .await;
    let identity = router.route_identity(OURS).unwrap();
    us.shutdown(Drain::Restart).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        router.has_route(OURS),
        "the route is kept while we are away"
    );
    let mut us = Us::start(&lab, peer(&options), Some(FamilySet::IPV4)).await;
    us.wait_for_synced().await;
    assert!(
        us.route(THEIRS).is_some(),
        "selection waited for the peer's routes"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let now = router.route_identity(OURS).unwrap();
    assert!(
        router.is_same_route(&identity, &now),
        "the route was never removed: {identity}, now {now}"
    );
    us.shutdown(Drain::Restart).await;
}

/// The router goes and comes back: we keep its route, marked as stale.
async fn survives_their_restart<R: Router>() {
    let lab = Lab::new();
    let options = Options::default();
    let mut router = R::start(&lab, &options);
    let mut us = Us::start(&lab, peer(&options), None).await;
    us.wait_for_route(THEIRS).await;
    router.crash();
    us.wait_for("the route is stale", |us| {
        us.route(THEIRS).is_some_and(|route| route.stale)
    })
    .await;
    us.wait("the status says so", |status| {
        status.restart.stale.contains(Family::Ipv4Unicast)
    })
    .await;
    let router = R::start(
        &lab,
        &Options {
            recovers: true,
            ..options
        },
    );
    us.wait_for("the route is fresh", |us| {
        us.route(THEIRS).is_some_and(|route| !route.stale)
    })
    .await;
    lab.wait("the router has our route", || router.has_route(OURS))
        .await;
    us.wait("nothing is stale", |status| status.restart.stale.is_empty())
        .await;
    assert_eq!(us.removals(THEIRS), 0, "the route was never removed");
    us.shutdown(Drain::Restart).await;
}

async fn hold_expiry<R: Router>() {
    let lab = Lab::new();
    let options = Options {
        hold: 3,
        ..Options::default()
    };
    let router = R::start(&lab, &options);
    let mut us = Us::start(&lab, peer(&options), None).await;
    us.wait_for_route(THEIRS).await;
    router.freeze();
    us.wait_for_no_route(THEIRS).await;
    let reason = us.status().last_down.map(|(reason, _)| reason);
    assert!(
        matches!(&reason, Some(DownReason::Sent(sent)) if sent.code == bgp::wire::code::HOLD_TIMER),
        "a silent peer is a dead peer: {reason:?}"
    );
    us.shutdown(Drain::Restart).await;
}

/// Both sides dial at once, again and again: it always ends in one session.
async fn collisions<R: Router>() {
    let lab = Lab::new();
    let options = Options::default();
    let _router = R::start(&lab, &options);
    for round in 0..5 {
        let mut us = Us::start(&lab, peer(&options), None).await;
        us.wait_for_route(THEIRS).await;
        us.wait("one session", |status| status.state == State::Established)
            .await;
        us.shutdown(Drain::Shutdown {
            text: format!("round {round}"),
        })
        .await;
    }
}

macro_rules! scenarios {
    ($router:ident, $module:ident, $($binary:literal),+) => {
        mod $module {
            use super::*;
            type R = super::$router::Daemon;

            #[tokio::test]
            async fn ebgp_exchanges_routes_both_ways() {
                requires!($($binary),+);
                exchanges_routes::<R>(Options::default()).await;
            }

            #[tokio::test]
            async fn ibgp_exchanges_routes_both_ways() {
                requires!($($binary),+);
                exchanges_routes::<R>(Options { asn: 64512, ..Options::default() }).await;
            }

            #[tokio::test]
            async fn four_octet_as_numbers_are_carried() {
                requires!($($binary),+);
                exchanges_routes::<R>(Options { asn: 4_200_000_010, ..Options::default() }).await;
            }

            #[tokio::test]
            async fn route_refresh_works_both_ways() {
                requires!($($binary),+);
                refreshes::<R>().await;
            }

            #[tokio::test]
            async fn md5_keys_must_match() {
                requires!($($binary),+);
                md5::<R>().await;
            }

            #[tokio::test]
            async fn the_router_may_call_with_key_and_ttl_security() {
                requires!($($binary),+);
                calls_us::<R>().await;
            }

            #[tokio::test]
            async fn routes_survive_our_restart() {
                requires!($($binary),+);
                survives_our_restart::<R>().await;
            }

            #[tokio::test]
            async fn routes_survive_their_restart() {
                requires!($($binary),+);
                survives_their_restart::<R>().await;
            }

            #[tokio::test]
            async fn a_silent_peer_is_given_up() {
                requires!($($binary),+);
                hold_expiry::<R>().await;
            }

            #[tokio::test]
            async fn collisions_end_in_one_session() {
                requires!($($binary),+);
                collisions::<R>().await;
            }
        }
    };
}

scenarios!(bird, with_bird, "bird", "birdc");
scenarios!(
    frr,
    with_frr,
    "/usr/lib/frr/bgpd",
    "/usr/lib/frr/zebra",
    "vtysh"
);
