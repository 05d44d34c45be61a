//! The transition table: every state and every input.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::output::{Action, Outbox};
use super::*;
use crate::speaker::{ConnectMode, HoldTime, PeerKey, Ttl};
use crate::wire::message::{self, Kind};
use crate::wire::{Notification, Reaction, refresh};
use crate::{Asn, Family, FamilySet};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

struct Rig {
    session: Session,
    out: Outbox,
    now: Instant,
    conn: Option<ConnId>,
}

fn config() -> SessionConfig {
    SessionConfig {
        key: PeerKey::Addr(PEER),
        local_as: Asn(64512),
        remote_as: Asn(65010),
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        remote: SocketAddr::new(PEER, 179),
        local_address: None,
        password: None,
        ttl: Ttl {
            send: None,
            min: None,
        },
        families: FamilySet::IPV4,
        hold_time: HoldTime::DEFAULT,
        keepalive_time: None,
        connect_retry: Duration::from_secs(5),
        connect: ConnectMode::Active,
        restart: Some(RestartOffer {
            time: 120,
            restarting: false,
            forwarding: FamilySet::EMPTY,
        }),
    }
}

/// What the peer of `ours` sends.
fn their_open(ours: &SessionConfig) -> Vec<u8> {
    let theirs = SessionConfig {
        local_as: ours.remote_as,
        remote_as: ours.local_as,
        router_id: Ipv4Addr::new(10, 0, 0, 2),
        ..ours.clone()
    };
    theirs.open().encode()
}

fn empty_update() -> Vec<u8> {
    let mut out = Vec::new();
    message::put(&mut out, Kind::Update, |out| {
        out.extend_from_slice(&[0, 0, 0, 0]);
    });
    out
}

impl Rig {
    #[expect(
        clippy::disallowed_methods,
        reason = "an arbitrary beginning of scripted time"
    )]
    fn new() -> Self {
        let now = Instant::now();
        Self {
            session: Session::new(config(), 1, now),
            out: Outbox::default(),
            now,
            conn: None,
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.session.handle(input, self.now, &mut self.out);
        for action in &self.out.actions {
            if let Action::Connect(request) = action {
                self.conn = Some(request.conn);
            }
        }
    }

    fn ends() -> (SocketAddr, SocketAddr) {
        (
            SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), 4000),
            SocketAddr::new(PEER, 179),
        )
    }

    fn receive(&mut self, octets: &[u8]) {
        if let Some(conn) = self.conn {
            self.handle(Input::Received(conn, octets));
        }
    }

    fn connect(&mut self) {
        if let Some(conn) = self.conn {
            let (local, remote) = Self::ends();
            self.handle(Input::Connected(conn, local, remote));
        }
    }

    fn accept(&mut self) -> ConnId {
        let conn = self.out.conn();
        let (local, remote) = Self::ends();
        self.handle(Input::Accepted(conn, local, remote));
        conn
    }

    /// A session in `state`, by the shortest way.
    fn at(state: State) -> Self {
        Self::between(state, &config())
    }

    fn between(state: State, ours: &SessionConfig) -> Self {
        let mut rig = Self::new();
        rig.session.configure(ours.clone(), rig.now);
        let theirs = their_open(ours);
        let steps: [&dyn Fn(&mut Self); 5] = [
            &|rig| rig.handle(Input::Start),
            &|rig| rig.connect(),
            &|rig| rig.receive(&theirs),
            &|rig| rig.receive(&message::keepalive()),
            &|rig| {
                let conn = rig.conn.unwrap();
                rig.handle(Input::ConnectFailed(conn, Arc::from("refused")));
            },
        ];
        let wanted: &[usize] = match state {
            State::Idle => &[],
            State::Connect => &[0],
            State::Active => &[0, 4],
            State::OpenSent => &[0, 1],
            State::OpenConfirm => &[0, 1, 2],
            State::Established => &[0, 1, 2, 3],
        };
        for step in wanted {
            steps[*step](&mut rig);
        }
        assert_eq!(rig.session.state().0, state);
        rig.out.actions.clear();
        rig
    }

    fn sent(&self) -> Option<(u8, u8)> {
        self.out.actions.iter().find_map(|action| {
            if let Action::NotificationOut(sent) = action {
                Some((sent.code, sent.subcode))
            } else {
                None
            }
        })
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.handle(Input::Tick);
    }
}

type Act = (&'static str, fn(&mut Rig));

const INPUTS: [Act; 14] = [
    ("start", |rig| rig.handle(Input::Start)),
    ("stop", |rig| {
        rig.handle(Input::Stop(Stop::Notify(Notification::cease(2))));
    }),
    ("connected", Rig::connect),
    ("connect failed", |rig| {
        let conn = rig.conn.unwrap_or(ConnId(99));
        rig.handle(Input::ConnectFailed(conn, Arc::from("refused")));
    }),
    ("accepted", |rig| {
        rig.accept();
    }),
    ("open", |rig| rig.receive(&their_open(&config()))),
    ("keepalive", |rig| rig.receive(&message::keepalive())),
    ("update", |rig| rig.receive(&empty_update())),
    ("refresh", |rig| {
        rig.receive(&refresh::encode(Family::Ipv4Unicast));
    }),
    ("notification", |rig| {
        rig.receive(&message::notification(&Notification::cease(4)));
    }),
    ("garbage", |rig| rig.receive(b"GET / HTTP/1.1")),
    ("closed", |rig| {
        let conn = rig.conn.unwrap_or(ConnId(99));
        rig.handle(Input::Closed(conn, None));
    }),
    ("retry", |rig| rig.pass(Duration::from_secs(5))),
    ("hold", |rig| rig.pass(Duration::from_secs(241))),
];

/// What is expected: the state afterwards, and the NOTIFICATION sent.
#[expect(clippy::match_same_arms, reason = "the table reads by state")]
fn expected(state: State, input: &str) -> (State, Option<(u8, u8)>) {
    use State::{Active, Connect, Established, Idle, OpenConfirm, OpenSent};
    let open = state >= OpenSent;
    match (state, input) {
        (Idle, "start") => (Connect, None),
        (Idle, _) => (Idle, None),
        (_, "start") => (state, None),
        (_, "stop") => (Idle, open.then_some((6, 2))),
        (Connect, "connected") => (OpenSent, None),
        (Connect, "connect failed" | "closed") => (Active, None),
        (Connect | Active, "accepted") => (OpenSent, None),
        (Connect, "retry" | "hold") => (Active, None),
        (Active, "retry" | "hold") => (Connect, None),
        (Connect | Active, _) => (state, None),
        (OpenSent, "open") => (OpenConfirm, None),
        (OpenSent, "keepalive" | "update" | "refresh") => (Active, Some((5, 1))),
        (OpenConfirm, "keepalive") => (Established, None),
        (OpenConfirm, "open" | "update" | "refresh") => (Active, Some((5, 2))),
        (Established, "open") => (Active, Some((5, 3))),
        (Established, "keepalive" | "update" | "refresh") => (Established, None),
        (_, "notification" | "closed") => (Active, None),
        (_, "garbage") => (Active, Some((1, 1))),
        (_, "hold") => (Active, Some((4, 0))),
        (_, _) => (state, None),
    }
}

#[test]
fn every_input_in_every_state_does_what_the_table_says() {
    for state in State::ALL {
        for (name, act) in INPUTS {
            let mut rig = Rig::at(state);
            act(&mut rig);
            let (after, sent) = expected(state, name);
            assert_eq!(rig.sent(), sent, "{state} {name}");
            let found = rig.session.state().0;
            assert_eq!(found, after, "{state} {name}");
        }
    }
}

#[test]
fn octets_may_come_one_by_one() {
    let mut rig = Rig::at(State::OpenSent);
    let stream = [their_open(&config()), message::keepalive(), empty_update()].concat();
    for octet in stream {
        rig.receive(&[octet]);
    }
    assert_eq!(rig.session.state().0, State::Established);
    assert!(
        rig.out
            .actions
            .iter()
            .any(|action| matches!(action, Action::EndOfRib(_, Family::Ipv4Unicast)))
    );
}

#[test]
fn keepalives_come_at_a_third_of_the_hold_time_with_jitter() {
    let rig = Rig::at(State::Established);
    let due = rig.session.next_deadline().unwrap() - rig.now;
    assert!(
        (Duration::from_millis(22_500)..=Duration::from_secs(30)).contains(&due),
        "{due:?}"
    );
}

#[test]
fn the_hold_timer_is_fed_by_any_message() {
    let mut rig = Rig::at(State::Established);
    for _ in 0..5 {
        rig.now += Duration::from_secs(80);
        rig.receive(&message::keepalive());
        rig.handle(Input::Tick);
    }
    assert_eq!(rig.session.state().0, State::Established);
    rig.pass(Duration::from_secs(91));
    assert_eq!(rig.sent(), Some((4, 0)));
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let mut rig = Rig::at(State::Established);
    let conn = rig.conn.unwrap();
    let (now, session) = (rig.now, &mut rig.session);
    // What was sent so far has left.
    session.handle(Input::Sent(conn, 1 << 20), now, &mut rig.out);
    session.send(vec![0; 100].into(), now, &mut rig.out);
    for _ in 0..11 {
        rig.now += Duration::from_mins(1);
        rig.receive(&message::keepalive());
        rig.handle(Input::Tick);
    }
    assert_eq!(rig.sent(), Some((8, 0)));
    assert!(
        rig.out
            .actions
            .iter()
            .any(|action| matches!(action, Action::Abort(_)))
    );
}

#[test]
fn the_higher_identifier_keeps_its_own_call() {
    // Ours is 10.0.0.1, theirs 10.0.0.2: their call wins whichever OPEN comes first.
    for incoming_first in [true, false] {
        let mut rig = Rig::at(State::OpenSent);
        let outgoing = rig.conn.unwrap();
        let incoming = rig.accept();
        let order = if incoming_first {
            [incoming, outgoing]
        } else {
            [outgoing, incoming]
        };
        for conn in order {
            rig.handle(Input::Received(conn, &their_open(&config())));
        }
        let closed = rig.out.actions.iter().find_map(|action| {
            if let Action::Close(conn) = action {
                Some(*conn)
            } else {
                None
            }
        });
        assert_eq!(closed, Some(outgoing));
        assert_eq!(rig.sent(), Some((6, 7)));
        rig.handle(Input::Received(incoming, &message::keepalive()));
        assert_eq!(rig.session.state().0, State::Established);
    }
}

#[test]
fn an_established_session_wins_over_a_late_call_but_not_over_a_restart() {
    let mut rig = Rig::at(State::Established);
    rig.accept();
    assert!(
        rig.out
            .actions
            .iter()
            .any(|action| matches!(action, Action::Close(_))),
        "a collision"
    );
    assert_eq!(rig.session.state().0, State::Established);
    rig.out.actions.clear();
    rig.now += Duration::from_secs(10);
    let again = rig.accept();
    rig.handle(Input::Received(again, &their_open(&config())));
    let retained = rig.out.actions.iter().find_map(|action| {
        if let Action::Down(_, _, retained) = action {
            Some(*retained)
        } else {
            None
        }
    });
    assert_eq!(
        retained,
        Some(FamilySet::IPV4),
        "the peer restarted: its routes are kept"
    );
    rig.handle(Input::Received(again, &message::keepalive()));
    assert_eq!(rig.session.state().0, State::Established);
}

#[test]
fn what_an_open_says_must_fit_the_configuration() {
    let base = SessionConfig {
        local_as: Asn(65010),
        remote_as: Asn(64512),
        router_id: Ipv4Addr::new(10, 0, 0, 2),
        ..config()
    };
    let rows: [(&str, SessionConfig, (u8, u8)); 4] = [
        (
            "7 other AS",
            SessionConfig {
                local_as: Asn(65011),
                ..base.clone()
            },
            (2, 2),
        ),
        (
            "9 identifier 0",
            SessionConfig {
                router_id: Ipv4Addr::UNSPECIFIED,
                ..base.clone()
            },
            (2, 3),
        ),
        (
            "16 no common family",
            SessionConfig {
                families: FamilySet::IPV6,
                ..base.clone()
            },
            (2, 7),
        ),
        ("10 hold time", base, (2, 6)),
    ];
    for (name, theirs, sent) in rows {
        let mut rig = Rig::at(State::OpenSent);
        let mut octets = theirs.open().encode();
        if sent == (2, 6) {
            octets[message::HEADER + 3..message::HEADER + 5].copy_from_slice(&[0, 2]);
        }
        rig.receive(&octets);
        assert_eq!(rig.sent(), Some(sent), "{name}");
    }
}

/// Each row of the table of malformed UPDATEs, through a session: what the peer is told, and what becomes of its route.
#[test]
fn malformed_updates_end_the_session_or_withdraw_or_neither() {
    for (name, context, attributes, nlri, fault) in crate::wire::update::tests::rows() {
        let remote_as = if context.external {
            context.peer_as
        } else {
            config().local_as
        };
        let mut rig = Rig::between(
            State::Established,
            &SessionConfig {
                remote_as,
                families: context.families,
                ..config()
            },
        );
        let mut octets = Vec::new();
        message::put(&mut octets, Kind::Update, |out| {
            out.extend_from_slice(&crate::wire::update::tests::row_body(&attributes, nlri));
        });
        if octets.len() > message::MAX {
            continue;
        }
        rig.receive(&octets);
        let found = rig
            .out
            .actions
            .iter()
            .any(|action| matches!(action, Action::Malformed(found) if *found == fault));
        assert!(found, "{name}: {:?}", rig.out.actions);
        let routes = rig.out.actions.iter().find_map(|action| {
            if let Action::Routes(_, update) = action {
                Some(update.clone())
            } else {
                None
            }
        });
        match fault.reaction() {
            Reaction::Reset(code, subcode) => {
                assert_eq!(rig.sent(), Some((code, subcode)), "{name}");
                assert!(routes.is_none(), "{name}: nothing is learnt");
            }
            Reaction::Withdraw => {
                let routes = routes.unwrap_or_else(|| panic!("{name}: a withdrawal"));
                assert_eq!(rig.sent(), None, "{name}");
                assert!(
                    !routes.withdrawn.is_empty() && routes.announced == [None, None],
                    "{name}"
                );
            }
            Reaction::Accept | Reaction::Discard => {
                let routes = routes.unwrap_or_else(|| panic!("{name}: a route"));
                assert_eq!(rig.session.state().0, State::Established, "{name}");
                assert!(routes.announced.iter().flatten().count() > 0, "{name}");
            }
        }
    }
}
