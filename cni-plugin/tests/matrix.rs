//! Every version × every verb through the real binary, against a daemon of a few lines that answers with a fixed result; and
//! what the binary says when there is no daemon, or a bad one.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test executes the plugin, times it, and fails by panic"
)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use cni_plugin::rpc::{Incoming, ReceiveError, Received, Reply, encode};
use cni_plugin::spec::{Code, Config, Failure, Interface, Ip, Outcome, Route, Verb};
use cni_plugin::spool;
use serde_json::{Value, json};

/// A namespace that surely is one: our own. The fake daemon does not enter it.
const SANDBOX: &str = "/proc/self/ns/net";

struct Exec<'a> {
    verb: &'a str,
    stdin: Vec<u8>,
    env: Vec<(&'a str, String)>,
}

impl<'a> Exec<'a> {
    fn new(verb: &'a str, conf: &Value) -> Self {
        let env = vec![
            ("CNI_CONTAINERID", "c0ffee".to_owned()),
            ("CNI_NETNS", SANDBOX.to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            (
                "CNI_ARGS",
                "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;SOMETHING=new".to_owned(),
            ),
        ];
        Self {
            verb,
            stdin: conf.to_string().into_bytes(),
            env,
        }
    }

    fn set(mut self, name: &'a str, value: &str) -> Self {
        self.env.retain(|(other, _)| *other != name);
        self.env.push((name, value.to_owned()));
        self
    }

    fn run(&self) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
            .env_clear()
            .env("CNI_COMMAND", self.verb)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin that refused early closes its stdin; that is no failure of the test.
        let _ = child.stdin.take().unwrap().write_all(&self.stdin);
        child.wait_with_output().unwrap()
    }

    /// Exit code and stdout as JSON, or as text when it is none.
    fn answer(&self) -> (i32, Value) {
        let output = self.run();
        let text = String::from_utf8(output.stdout).unwrap();
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (output.status.code().unwrap(), value)
    }
}

fn conf(socket: &Path, version: &str) -> Value {
    json!({ "cniVersion": version, "name": "net", "type": "margay", "socket": socket, "dns": {"nameservers": ["10.96.0.10"]} })
}

fn outcome(dns: Option<Value>) -> Outcome {
    Outcome {
        interfaces: vec![
            Interface {
                name: "cali01234567890".into(),
                ..Interface::default()
            },
            Interface {
                name: "eth0".into(),
                mac: Some("02:00:00:00:00:07".into()),
                mtu: Some(1450),
                sandbox: Some("/run/netns/x".into()),
            },
        ],
        ips: vec![
            Ip {
                address: "10.65.0.7/32".parse().unwrap(),
                interface: Some(1),
                gateway: None,
            },
            Ip {
                address: "fd00:65::7/128".parse().unwrap(),
                interface: Some(1),
                gateway: None,
            },
        ],
        routes: vec![
            Route {
                dst: "10.65.0.7/32".parse().unwrap(),
                gw: None,
            },
            Route {
                dst: "fd00:65::7/128".parse().unwrap(),
                gw: None,
            },
        ],
        dns,
    }
}

fn receive(stream: &std::os::unix::net::UnixStream) -> Result<Received, ReceiveError> {
    let mut incoming = Incoming::default();
    loop {
        match incoming.advance(stream.as_fd()) {
            Err(ReceiveError::Socket(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}

/// Serves until the test ends; checks what the plugin must have passed on.
fn serve(listener: UnixListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Ok(received) = receive(&stream) else {
                continue;
            };
            let request = received.request;
            let verb = Verb::parse(&request.command).unwrap();
            assert_eq!(received.sandbox.is_some(), verb.names_an_attachment());
            assert!(request.deadline_ms > 0);
            let config = Config::parse(&request.stdin, verb).unwrap();
            let reply = match verb {
                Verb::Add => Reply::success(
                    outcome(config.dns)
                        .render(config.version)
                        .to_string()
                        .into_bytes(),
                ),
                Verb::Check => Reply::failure(
                    &Failure::new(Code::Differs, "interface eth0 of c0ffee differs")
                        .because("it is down"),
                ),
                Verb::Status => {
                    Reply::failure(&Failure::new(Code::NotAvailable, "no address is free"))
                }
                Verb::Del | Verb::Gc | Verb::Version => Reply::success(Vec::new()),
            };
            stream.write_all(&encode(&reply).unwrap()).unwrap();
        }
    });
}

#[test]
fn every_version_answers_every_verb_as_the_specification_says() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cni.sock");
    serve(UnixListener::bind(&socket).unwrap());
    let mut golden = String::new();
    for version in [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "2.0.0",
    ] {
        for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] {
            let mut conf = conf(&socket, version);
            let map = conf.as_object_mut().unwrap();
            if verb == "CHECK" {
                let mut previous = json!({ "cniVersion": version, "interfaces": [{"name": "eth0", "sandbox": SANDBOX}], "ips": [] });
                previous
                    .as_object_mut()
                    .unwrap()
                    .insert("unknown".into(), json!(1));
                map.insert("prevResult".into(), previous);
            }
            if verb == "GC" {
                map.insert(
                    "cni.dev/valid-attachments".into(),
                    json!([{"containerID": "c0ffee", "ifname": "eth0"}]),
                );
            }
            let (exit, stdout) = Exec::new(verb, &conf).answer();
            let _ = writeln!(golden, "{version} {verb}: exit {exit} {stdout}");
        }
    }
    insta::assert_snapshot!(golden);
}

#[test]
fn without_a_verb_it_says_what_it_is_and_an_unknown_verb_is_code_4() {
    let about = Exec::new("", &json!({})).run();
    assert!(about.status.success());
    assert!(
        String::from_utf8(about.stdout)
            .unwrap()
            .starts_with("Margay CNI plugin ")
    );
    let (exit, stdout) = Exec::new("FLY", &json!({})).answer();
    assert_eq!((exit, stdout["code"].as_u64()), (1, Some(4)));
}

#[test]
fn without_a_daemon_add_fails_with_11_del_is_spooled_and_status_is_51() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cni.sock");
    let conf = conf(&socket, "1.1.0");
    let before = Instant::now();
    let (exit, stdout) = Exec::new("ADD", &conf).answer();
    assert_eq!((exit, stdout["code"].as_u64()), (1, Some(11)), "{stdout}");
    assert!(before.elapsed() < Duration::from_millis(2500));

    assert_eq!(
        Exec::new("DEL", &conf).set("CNI_NETNS", "").answer(),
        (0, json!(""))
    );
    let left = spool::collect(&socket).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1.as_ref().unwrap().container_id, "c0ffee");

    assert_eq!(
        Exec::new("STATUS", &conf).answer().1["code"].as_u64(),
        Some(51)
    );
    spool::beat(&socket, &Reply::success(Vec::new())).unwrap();
    assert_eq!(Exec::new("STATUS", &conf).answer(), (0, json!("")));
}

#[test]
fn a_socket_that_appears_within_two_seconds_is_met() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cni.sock");
    let late = socket.clone();
    let binder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(600));
        serve(UnixListener::bind(late).unwrap());
    });
    let (exit, stdout) = Exec::new("ADD", &conf(&socket, "1.0.0")).answer();
    binder.join().unwrap();
    assert_eq!(exit, 0, "{stdout}");
}

#[test]
fn a_daemon_that_hangs_up_or_babbles_is_11_for_add_and_spooled_for_del() {
    for babble in [&b""[..], b"\xff\xff\xff\xff", b"\x00\x00\x00\x04abcd"] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cni.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = receive(&stream);
                let _ = stream.write_all(babble);
            }
        });
        let (exit, stdout) = Exec::new("ADD", &conf(&socket, "1.0.0")).answer();
        assert_eq!((exit, stdout["code"].as_u64()), (1, Some(11)), "{stdout}");
        assert_eq!(Exec::new("DEL", &conf(&socket, "1.0.0")).answer().0, 0);
        assert_eq!(spool::collect(&socket).unwrap().len(), 1);
    }
}

#[test]
fn what_is_wrong_at_the_border_never_reaches_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = conf(&directory.path().join("cni.sock"), "1.0.0");
    let table = [
        (
            Exec::new("ADD", &nobody).set("CNI_NETNS", "/run/netns/surely-not-there"),
            3,
        ),
        (
            Exec::new("ADD", &nobody).set("CNI_NETNS", "/proc/self/ns/uts"),
            4,
        ),
        (Exec::new("ADD", &nobody).set("CNI_NETNS", ""), 4),
        (Exec::new("ADD", &nobody).set("CNI_CONTAINERID", "../x"), 4),
        (Exec::new("ADD", &nobody).set("CNI_IFNAME", "a/b"), 4),
        (
            Exec {
                stdin: b"{".to_vec(),
                ..Exec::new("ADD", &nobody)
            },
            6,
        ),
        (
            Exec {
                stdin: b"\"\xff\"".to_vec(),
                ..Exec::new("ADD", &nobody)
            },
            6,
        ),
        (
            Exec {
                stdin: vec![b' '; 300 * 1024],
                ..Exec::new("DEL", &nobody)
            },
            6,
        ),
        (Exec::new("CHECK", &nobody), 7),
    ];
    for (exec, code) in table {
        let before = Instant::now();
        let (exit, stdout) = exec.answer();
        assert_eq!(
            (exit, stdout["code"].as_u64()),
            (1, Some(code)),
            "{} {stdout}",
            exec.verb
        );
        assert!(
            before.elapsed() < Duration::from_secs(1),
            "the border was slow"
        );
    }
}

#[test]
fn stdin_without_end_is_an_error_and_no_hang_of_the_daemon() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let held_open = child.stdin.take();
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(!child.wait().unwrap().success());
    drop(held_open);
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(error["code"].as_u64(), Some(5));
}
