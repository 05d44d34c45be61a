//! The socket against a real kernel. Each test wants a private network namespace: run with
//! `CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="unshare -nm --propagation private"`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netlink::attr::Encoder;
use netlink::{
    Batch, Errno, Error, GenerationId, Heard, Monitor, Protocol, SharedSocket, Socket, flags, netns,
};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const IFLA_IFNAME: u16 = 3;
const NFT_NEWTABLE: u16 = 0xa00;
const NFT_NEWCHAIN: u16 = 0xa03;
const NFT_NEWRULE: u16 = 0xa06;
const NFT_GETGEN: u16 = 0xa10;
const NFTABLES: u8 = 10;

/// A namespace of the test's own, so that nothing here depends on where the test runs.
fn private() -> OwnedFd {
    netns::create().expect("needs root: make a network namespace")
}

fn ifinfo(enc: &mut Encoder, index: u32, up: bool) {
    let mut header = [0_u8; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8] = u8::from(up);
    header[12] = u8::from(up);
    enc.raw(&header);
}

fn lo_up(socket: &mut Socket) {
    let mut batch = Batch::new();
    batch.push(RTM_NEWLINK, 0, |enc| ifinfo(enc, 1, true));
    socket.submit(&mut batch).unwrap();
}

fn address(enc: &mut Encoder, address: Ipv4Addr, index: u32) {
    let [a, b, c, d] = index.to_ne_bytes();
    enc.raw(&[2, 32, 0, 0, a, b, c, d]);
    enc.put(1, &address.octets());
    enc.put(2, &address.octets());
}

fn list_addresses(socket: &mut Socket) -> Result<Vec<Ipv4Addr>, Error> {
    socket.dump(
        RTM_GETADDR,
        |enc| enc.raw(&[2, 0, 0, 0, 0, 0, 0, 0]),
        |message| {
            let attributes = netlink::attr::parse(message.body.get(8..)?);
            attributes.clone().find(2)?.array::<4>().map(Ipv4Addr::from)
        },
    )
}

#[test]
fn a_refused_message_is_named_with_the_kernels_words_and_the_rest_takes_effect() {
    let mut socket = Socket::open_in(private(), Protocol::Route).unwrap();
    lo_up(&mut socket);
    let mut batch = Batch::new();
    batch.push(RTM_NEWADDR, flags::CREATE, |enc| {
        address(enc, [10, 0, 0, 1].into(), 1);
    });
    batch.push(RTM_NEWADDR, flags::CREATE, |enc| {
        address(enc, [10, 0, 0, 2].into(), 77);
    });
    // A /32 route over a gateway that nothing reaches.
    batch.push(RTM_NEWROUTE, flags::CREATE, |enc| {
        enc.raw(&[2, 32, 0, 0, 254, 80, 0, 1, 0, 0, 0, 0]);
        enc.put(1, &[10, 9, 9, 9]);
        enc.put(5, &[192, 0, 2, 1]);
    });
    batch.push(RTM_NEWADDR, flags::CREATE, |enc| {
        address(enc, [10, 0, 0, 3].into(), 1);
    });
    let Err(Error::Rejected(rejected)) = socket.submit(&mut batch) else {
        panic!("two messages must be refused");
    };
    let named: Vec<_> = rejected
        .failures
        .iter()
        .map(|f| (f.index, f.errno))
        .collect();
    assert_eq!(
        named,
        [(Some(1), Errno::ENODEV), (Some(2), Errno::ENETUNREACH)]
    );
    assert!(
        rejected.failures[1]
            .text
            .as_deref()
            .unwrap()
            .contains("invalid gateway"),
        "{rejected}"
    );
    let listed = list_addresses(&mut socket).unwrap();
    assert!(listed.contains(&[10, 0, 0, 1].into()) && listed.contains(&[10, 0, 0, 3].into()));
}

#[test]
fn a_socket_opened_in_another_namespace_stays_there() {
    let ours = netns::identify(netns::current().unwrap()).unwrap();
    let namespace = private();
    assert_ne!(netns::identify(&namespace).unwrap(), ours);
    let mut socket = Socket::open_in(&namespace, Protocol::Route).unwrap();
    let names = socket
        .dump(
            RTM_GETLINK,
            |enc| ifinfo(enc, 0, false),
            |message| {
                let attributes = netlink::attr::parse(message.body.get(16..)?);
                attributes
                    .clone()
                    .find(IFLA_IFNAME)?
                    .str()
                    .map(str::to_owned)
            },
        )
        .unwrap();
    assert_eq!(names, ["lo"]);
    // The calling thread was not moved.
    assert_eq!(netns::identify(netns::current().unwrap()).unwrap(), ours);
}

#[test]
fn what_is_no_namespace_cannot_be_entered() {
    let (not_a_namespace, _writer) = nix::unistd::pipe().unwrap();
    let error = netns::run_in(&not_a_namespace, || ()).unwrap_err();
    assert!(error.is_not_a_namespace(), "{error}");
}

#[test]
fn a_lookup_of_what_is_not_there_keeps_the_error_number() {
    let mut socket = Socket::open_in(private(), Protocol::Route).unwrap();
    let asked = socket.ask(
        RTM_GETLINK,
        0,
        |enc| {
            ifinfo(enc, 0, false);
            enc.put_str(IFLA_IFNAME, "nothing0");
        },
        |_| Some(()),
    );
    assert_eq!(asked.unwrap_err().errno(), Some(Errno::ENODEV));
}

#[test]
fn dumps_under_change_are_whole_or_an_error() {
    let namespace = private();
    let mut socket = Socket::open_in(&namespace, Protocol::Route).unwrap();
    lo_up(&mut socket);
    let stable: Vec<Ipv4Addr> = (0..2_000_u32)
        .map(|n| Ipv4Addr::from(0x0a01_0000 + n))
        .collect();
    let mut batch = Batch::new();
    for &a in &stable {
        batch.push(RTM_NEWADDR, flags::CREATE, |enc| address(enc, a, 1));
    }
    socket.submit(&mut batch).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut churn = Socket::open_in(&namespace, Protocol::Route).unwrap();
            while !stop.load(Ordering::Relaxed) {
                for kind in [RTM_NEWADDR, RTM_DELADDR] {
                    let mut batch = Batch::new();
                    batch.push(kind, flags::CREATE, |enc| {
                        address(enc, [10, 200, 0, 1].into(), 1);
                    });
                    churn.submit(&mut batch).unwrap();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let (mut whole, mut interrupted) = (0, 0);
        for _ in 0..20 {
            match list_addresses(&mut socket) {
                Ok(listed) => {
                    whole += 1;
                    assert!(
                        stable.iter().all(|a| listed.contains(a)),
                        "a dump lost addresses"
                    );
                }
                Err(Error::Interrupted { .. }) => interrupted += 1,
                Err(other) => panic!("{other}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        println!("{whole} whole, {interrupted} refused as interrupted");
    });
    // The socket is still in step.
    assert!(list_addresses(&mut socket).unwrap().len() >= stable.len());
}

fn generation(socket: &mut Socket) -> GenerationId {
    let found = socket
        .ask(
            NFT_GETGEN,
            0,
            |enc| enc.raw(&[0, 0, 0, 0]),
            |message| netlink::attr::parse(message.body.get(4..)?).find(1)?.be32(),
        )
        .unwrap();
    GenerationId(found[0])
}

fn push_table(batch: &mut Batch, name: &str) {
    batch.push(NFT_NEWTABLE, flags::CREATE, |enc| {
        enc.raw(&[1, 0, 0, 0]);
        enc.put_str(1, name);
    });
}

fn push_chain(batch: &mut Batch, table: &str, name: &str) {
    batch.push(NFT_NEWCHAIN, flags::CREATE, |enc| {
        enc.raw(&[1, 0, 0, 0]);
        enc.put_str(1, table);
        enc.put_str(3, name);
    });
}

#[test]
fn a_transaction_is_all_or_nothing_and_every_fault_is_named() {
    let mut socket = Socket::open_in(private(), Protocol::Netfilter).unwrap();
    let mut batch = Batch::transaction(NFTABLES, None);
    push_table(&mut batch, "probe");
    push_chain(&mut batch, "nowhere", "a");
    push_chain(&mut batch, "probe", "b");
    batch.push(NFT_NEWRULE, flags::CREATE | flags::APPEND, |enc| {
        enc.raw(&[1, 0, 0, 0]);
        enc.put_str(1, "probe");
        enc.put_str(2, "missing");
    });
    let Err(Error::Rejected(rejected)) = socket.submit(&mut batch) else {
        panic!("must be refused");
    };
    let named: Vec<_> = rejected
        .failures
        .iter()
        .map(|f| (f.index, f.errno))
        .collect();
    assert_eq!(named, [(Some(1), Errno::ENOENT), (Some(3), Errno::ENOENT)]);
    assert!(rejected.failures[0].offset.is_some());

    let mut batch = Batch::transaction(NFTABLES, None);
    push_chain(&mut batch, "probe", "b");
    assert_eq!(
        socket.submit(&mut batch).unwrap_err().errno(),
        Some(Errno::ENOENT),
        "the table of the refused transaction must not exist"
    );
}

#[test]
fn a_stale_generation_is_told_and_a_current_one_taken() {
    let mut socket = Socket::open_in(private(), Protocol::Netfilter).unwrap();
    let stale = generation(&mut socket);
    let mut batch = Batch::transaction(NFTABLES, Some(stale));
    push_table(&mut batch, "first");
    socket.submit(&mut batch).unwrap();

    let mut batch = Batch::transaction(NFTABLES, Some(stale));
    push_table(&mut batch, "second");
    let Err(Error::Rejected(rejected)) = socket.submit(&mut batch) else {
        panic!("must be refused");
    };
    assert!(rejected.failures[0].is_stale_generation());

    let mut batch = Batch::transaction(NFTABLES, Some(generation(&mut socket)));
    push_table(&mut batch, "second");
    socket.submit(&mut batch).unwrap();
}

#[test]
fn a_large_transaction_goes_in_one_send() {
    let mut socket = Socket::open_in(private(), Protocol::Netfilter).unwrap();
    let mut batch = Batch::transaction(NFTABLES, None);
    push_table(&mut batch, "large");
    for n in 0..20_000 {
        push_chain(
            &mut batch,
            "large",
            &format!("chain-with-a-rather-long-name-{n}"),
        );
    }
    assert!(batch.octets() > 1 << 20 && batch.octets() < socket.send_capacity());
    socket.submit(&mut batch).unwrap();
}

#[tokio::test]
async fn lost_notifications_are_told_and_hearing_goes_on() {
    const RTNLGRP_IPV4_IFADDR: u32 = 5;
    let namespace = private();
    let mut monitor =
        Monitor::open_in(&namespace, Protocol::Route, &[RTNLGRP_IPV4_IFADDR]).unwrap();
    let socket = SharedSocket::new(Socket::open_in(&namespace, Protocol::Route).unwrap());
    let flood = socket.with(|socket| {
        lo_up(socket);
        let mut batch = Batch::new();
        for n in 0..60_000 {
            let kind = if n % 2 == 0 { RTM_NEWADDR } else { RTM_DELADDR };
            batch.push(kind, flags::CREATE, |enc| {
                address(enc, [10, 0, 0, 9].into(), 1);
            });
        }
        socket.submit(&mut batch)
    });
    flood.await.unwrap();
    let mut overruns = 0;
    let mut heard = 0;
    while let Ok(next) =
        tokio::time::timeout(Duration::from_millis(200), monitor.hear(|_| {})).await
    {
        match next.unwrap() {
            Heard::Overrun => overruns += 1,
            Heard::Messages(n) => heard += n,
        }
    }
    assert!(
        overruns > 0 && heard > 0,
        "{overruns} overruns, {heard} messages"
    );
    let one = socket.with(|socket| {
        let mut batch = Batch::new();
        batch.push(RTM_NEWADDR, flags::CREATE, |enc| {
            address(enc, [10, 0, 0, 10].into(), 1);
        });
        socket.submit(&mut batch)
    });
    one.await.unwrap();
    assert_eq!(
        monitor
            .hear(|m| assert_eq!(m.kind, RTM_NEWADDR))
            .await
            .unwrap(),
        Heard::Messages(1)
    );
}

#[tokio::test]
async fn a_dropped_caller_does_not_take_the_socket_along() {
    let socket = SharedSocket::new(Socket::open_in(private(), Protocol::Route).unwrap());
    let call = socket.with(|socket| {
        std::thread::sleep(Duration::from_millis(50));
        list_addresses(socket)
    });
    assert!(
        tokio::time::timeout(Duration::from_millis(5), call)
            .await
            .is_err()
    );
    assert!(socket.with(list_addresses).await.is_ok());
}
