//! The network configuration on stdin: keys we read, each named when it is wrong. Unknown keys are tolerated.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::environment::check_network_name;
use super::{Code, Failure, Outcome, Verb, Version};

/// The longest configuration accepted, in bytes.
pub const MAX_STDIN: usize = 256 * 1024;

/// Names of the address families, in the shape of `assign_ipv4` and `assign_ipv6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// One IPv4 address is wanted.
    pub ipv4: bool,
    /// One IPv6 address is wanted.
    pub ipv6: bool,
}

/// Key `default_route`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultRoute {
    /// Only if the sandbox has none in that family.
    Auto,
    /// Whatever the sandbox has.
    Always,
    /// Never.
    Never,
}

/// Key `status`: what STATUS tells of causes that leave running pods whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusMode {
    /// They exit 0 once the node has served an ADD: a shortage must not evict healthy pods.
    Guarded,
    /// They exit 50, as the specification suggests.
    Strict,
}

/// `cni.dev/valid-attachments` of a GC call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachments(pub Vec<(String, String)>);

impl Attachments {
    /// True when (container id, interface name) is on the list.
    pub fn contains(&self, container_id: &str, ifname: &str) -> bool {
        self.0
            .iter()
            .any(|(id, name)| id == container_id && name == ifname)
    }
}

/// A network configuration that passed the border.
#[derive(Clone, Debug)]
pub struct Config {
    /// The protocol version answers are rendered in.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `mtu`; `None` when absent or 0: the daemon's.
    pub mtu: Option<u32>,
    /// Families wanted; `None` when nothing is said: those of the cluster, which the daemon knows.
    pub families: Option<Families>,
    /// `ipam.ipv4_pools`: names or CIDRs, in the user's order.
    pub ipv4_pools: Vec<String>,
    /// `ipam.ipv6_pools`.
    pub ipv6_pools: Vec<String>,
    /// `runtimeConfig.ips` (capability `ips`): addresses asked for by the runtime.
    pub requested: Vec<IpAddr>,
    /// `container_settings.allow_ip_forwarding`.
    pub forwarding: bool,
    /// `policy_setup_timeout_seconds`; `None` = do not wait.
    pub policy_timeout: Option<Duration>,
    /// `default_route`.
    pub default_route: DefaultRoute,
    /// `status`.
    pub status: StatusMode,
    /// `dns`, passed through into the result.
    pub dns: Option<Value>,
    /// Labels of `args.cni.labels`, for endpoints without a pod.
    pub labels: BTreeMap<String, String>,
    /// `prevResult`, already parsed.
    pub previous: Option<Outcome>,
    /// `cni.dev/valid-attachments`, or the older `cni.dev/attachments`. Absent is not empty.
    pub attachments: Option<Attachments>,
}

impl Config {
    /// Parses stdin for `verb`.
    ///
    /// # Errors
    /// Code 6 when it is not JSON, 1 for the version, 7 for a key of the wrong form (named), 2 for a value we refuse (named).
    pub fn parse(stdin: &[u8], verb: Verb) -> Result<Self, Failure> {
        let map = object(stdin)?;
        let version = Version::parse(optional::<String>(&map, "cniVersion")?.as_deref())?;
        verb.allowed_in(version)?;
        let name: String = optional(&map, "name")?.ok_or_else(|| wrong("name", "it is missing"))?;
        check_network_name(&name).map_err(|why| wrong("name", why))?;
        let ipam = section(&map, "ipam")?;
        check_ipam_type(&ipam)?;
        let previous = previous(&map, verb, version)?;
        check_chain(verb, previous.as_ref())?;
        Ok(Self {
            version,
            name,
            mtu: mtu(&map)?,
            families: families(&ipam)?,
            ipv4_pools: optional(&ipam, "ipv4_pools")?.unwrap_or_default(),
            ipv6_pools: optional(&ipam, "ipv6_pools")?.unwrap_or_default(),
            requested: requested(&map)?,
            forwarding: optional(&section(&map, "container_settings")?, "allow_ip_forwarding")?
                .unwrap_or(false),
            policy_timeout: policy_timeout(&map)?,
            default_route: default_route(&map)?,
            status: status(&map)?,
            dns: map
                .get("dns")
                .filter(|dns| dns.as_object().is_some_and(|dns| !dns.is_empty()))
                .cloned(),
            labels: labels(&map)?,
            previous,
            attachments: attachments(&map, verb)?,
        })
    }

    /// What the plugin itself needs of a configuration that may be anything: version for error objects, and `socket`.
    pub fn peek(stdin: &[u8]) -> (Version, Option<String>) {
        let Ok(map) = object(stdin) else {
            return (Version::NEWEST, None);
        };
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        let version = Version::parse(text("cniVersion")).unwrap_or(Version::NEWEST);
        let socket = text("socket")
            .filter(|path| path.starts_with('/'))
            .map(str::to_owned);
        (version, socket)
    }
}

fn object(stdin: &[u8]) -> Result<Map<String, Value>, Failure> {
    if stdin.len() > MAX_STDIN {
        return Err(Failure::new(
            Code::Decode,
            format!("the network configuration is longer than {MAX_STDIN} bytes"),
        ));
    }
    let value: Value = serde_json::from_slice(stdin).map_err(|error| {
        Failure::new(
            Code::Decode,
            "the network configuration on stdin is not JSON",
        )
        .because(error)
    })?;
    match value {
        Value::Object(map) => Ok(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(Failure::new(
                Code::Decode,
                "the network configuration on stdin is not a JSON object",
            ))
        }
    }
}

fn wrong(key: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(
        Code::InvalidConfig,
        format!("network configuration key {key} is wrong: {why}"),
    )
}

fn refused(key: &str, value: &str, why: &str) -> Failure {
    let shown: String = value.chars().take(64).collect();
    Failure::new(
        Code::UnsupportedField,
        format!("network configuration key {key} has the value {shown:?}: {why}"),
    )
}

/// The value of `key`; absent and `null` are the same.
fn optional<T: DeserializeOwned>(
    map: &Map<String, Value>,
    key: &str,
) -> Result<Option<T>, Failure> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => T::deserialize(value)
            .map(Some)
            .map_err(|error| wrong(key, error)),
    }
}

fn section(map: &Map<String, Value>, key: &str) -> Result<Map<String, Value>, Failure> {
    Ok(optional::<Map<String, Value>>(map, key)?.unwrap_or_default())
}

fn check_ipam_type(ipam: &Map<String, Value>) -> Result<(), Failure> {
    match optional::<String>(ipam, "type")?.as_deref() {
        None | Some("margay-ipam" | "calico-ipam") => Ok(()),
        Some(other) => Err(refused(
            "ipam.type",
            other,
            "only margay-ipam (or calico-ipam, the same) is served",
        )),
    }
}

fn check_chain(verb: Verb, previous: Option<&Outcome>) -> Result<(), Failure> {
    match (verb, previous) {
        (Verb::Add, Some(_)) => Err(refused(
            "prevResult",
            "present",
            "margay must be the first plugin of its chain",
        )),
        (Verb::Check, None) => Err(wrong("prevResult", "CHECK needs the result of the ADD")),
        (Verb::Add | Verb::Check | Verb::Del | Verb::Gc | Verb::Status | Verb::Version, _) => {
            Ok(())
        }
    }
}

/// Calico writes these two as strings, people write booleans. Who says one of them gets Calico's value for the other.
fn families(ipam: &Map<String, Value>) -> Result<Option<Families>, Failure> {
    let wanted = |key: &str| match ipam.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(wanted)) => Ok(Some(*wanted)),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
        Some(other) => Err(wrong(
            &format!("ipam.{key}"),
            format!("{other} is neither true nor false"),
        )),
    };
    let (ipv4, ipv6) = (wanted("assign_ipv4")?, wanted("assign_ipv6")?);
    if ipv4.is_none() && ipv6.is_none() {
        return Ok(None);
    }
    let families = Families {
        ipv4: ipv4.unwrap_or(true),
        ipv6: ipv6.unwrap_or(false),
    };
    if families.ipv4 || families.ipv6 {
        return Ok(Some(families));
    }
    Err(wrong(
        "ipam.assign_ipv4",
        "neither IPv4 nor IPv6 is wanted, so there is nothing to assign",
    ))
}

fn mtu(map: &Map<String, Value>) -> Result<Option<u32>, Failure> {
    match optional::<u32>(map, "mtu")? {
        None | Some(0) => Ok(None),
        Some(mtu @ 68..=65_535) => Ok(Some(mtu)),
        Some(other) => Err(wrong("mtu", format!("{other} is not between 68 and 65535"))),
    }
}

fn policy_timeout(map: &Map<String, Value>) -> Result<Option<Duration>, Failure> {
    const DEFAULT: u64 = 10;
    const LONGEST: u64 = 50;
    match optional::<u64>(map, "policy_setup_timeout_seconds")?.unwrap_or(DEFAULT) {
        0 => Ok(None),
        seconds => Ok(Some(Duration::from_secs(seconds.min(LONGEST)))),
    }
}

fn default_route(map: &Map<String, Value>) -> Result<DefaultRoute, Failure> {
    match optional::<String>(map, "default_route")?.as_deref() {
        None | Some("auto") => Ok(DefaultRoute::Auto),
        Some("always") => Ok(DefaultRoute::Always),
        Some("never") => Ok(DefaultRoute::Never),
        Some(other) => Err(refused(
            "default_route",
            other,
            "it must be auto, always or never",
        )),
    }
}

fn status(map: &Map<String, Value>) -> Result<StatusMode, Failure> {
    match optional::<String>(map, "status")?.as_deref() {
        None | Some("guarded") => Ok(StatusMode::Guarded),
        Some("strict") => Ok(StatusMode::Strict),
        Some(other) => Err(refused("status", other, "it must be guarded or strict")),
    }
}

fn requested(map: &Map<String, Value>) -> Result<Vec<IpAddr>, Failure> {
    let texts: Vec<String> = optional(&section(map, "runtimeConfig")?, "ips")?.unwrap_or_default();
    texts
        .iter()
        .map(|text| {
            let address = text.split('/').next().unwrap_or_default();
            address
                .parse()
                .map_err(|error| wrong("runtimeConfig.ips", format!("{address:?}: {error}")))
        })
        .collect()
}

/// `args.cni.labels`, a list of {key, value} (CNI conventions, "args in network config").
fn labels(map: &Map<String, Value>) -> Result<BTreeMap<String, String>, Failure> {
    #[derive(serde::Deserialize)]
    struct Label {
        key: String,
        value: String,
    }
    let cni = section(&section(map, "args")?, "cni")?;
    let labels: Vec<Label> = optional(&cni, "labels")?.unwrap_or_default();
    Ok(labels
        .into_iter()
        .map(|label| (label.key, label.value))
        .collect())
}

/// Only ADD and CHECK look at it; a DEL must not fail over what it does not need.
fn previous(
    map: &Map<String, Value>,
    verb: Verb,
    version: Version,
) -> Result<Option<Outcome>, Failure> {
    if !matches!(verb, Verb::Add | Verb::Check) {
        return Ok(None);
    }
    match map.get("prevResult") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => Outcome::parse(value, version)
            .map(Some)
            .map_err(|why| wrong("prevResult", why)),
    }
}

fn attachments(map: &Map<String, Value>, verb: Verb) -> Result<Option<Attachments>, Failure> {
    #[derive(serde::Deserialize)]
    struct Attachment {
        #[serde(rename = "containerID")]
        container_id: String,
        ifname: String,
    }
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        if let Some(list) = optional::<Vec<Attachment>>(map, key)? {
            let pairs = list
                .into_iter()
                .map(|entry| (entry.container_id, entry.ifname))
                .collect();
            return Ok(Some(Attachments(pairs)));
        }
    }
    if verb == Verb::Gc {
        return Err(wrong(
            "cni.dev/valid-attachments",
            "GC needs it: an absent list is not an empty one",
        ));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(conf: &Value, verb: Verb) -> Result<Config, Failure> {
        Config::parse(conf.to_string().as_bytes(), verb)
    }

    fn refusal(conf: &Value, verb: Verb) -> (u32, String) {
        let failure = parse(conf, verb).unwrap_err();
        (failure.code.number(), failure.msg)
    }

    #[test]
    fn a_calico_configuration_is_accepted_as_it_is() {
        let conf = json!({
            "name": "k8s-pod-network", "cniVersion": "0.3.1", "type": "calico", "log_level": "info", "datastore_type": "kubernetes",
            "nodename": "n1", "mtu": 0, "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "True", "ipv4_pools": ["a", "10.0.0.0/16"]},
            "container_settings": {"allow_ip_forwarding": true}, "policy": {"type": "k8s"}, "kubernetes": {"kubeconfig": "/x"}, "dns": {},
        });
        let config = parse(&conf, Verb::Add).unwrap();
        assert_eq!(config.version, Version::V0_3_1);
        assert_eq!(config.mtu, None);
        assert_eq!(
            config.families,
            Some(Families {
                ipv4: true,
                ipv6: true
            })
        );
        assert_eq!(config.ipv4_pools, ["a", "10.0.0.0/16"]);
        assert!(config.forwarding);
        assert_eq!(config.policy_timeout, Some(Duration::from_secs(10)));
        assert_eq!(config.dns, None);
    }

    #[test]
    fn every_wrong_key_is_named_with_its_code() {
        let base = |key: &str, value: Value| {
            let mut conf = json!({ "name": "net", "cniVersion": "1.0.0", "type": "margay" });
            conf.as_object_mut().unwrap().insert(key.into(), value);
            conf
        };
        let table = [
            ("cniVersion", json!("0.2.0"), 1, "\"0.2.0\""),
            ("cniVersion", json!(1), 7, "cniVersion"),
            ("name", json!(""), 7, "name"),
            ("name", json!("a/b"), 7, "name"),
            ("mtu", json!("1500"), 7, "mtu"),
            ("mtu", json!(67), 7, "mtu"),
            ("ipam", json!({"type": "host-local"}), 2, "host-local"),
            ("ipam", json!({"assign_ipv4": "yes"}), 7, "ipam.assign_ipv4"),
            (
                "ipam",
                json!({"assign_ipv4": false}),
                7,
                "nothing to assign",
            ),
            ("status", json!("lax"), 2, "lax"),
            ("default_route", json!("maybe"), 2, "maybe"),
            (
                "runtimeConfig",
                json!({"ips": ["10.0.0.300"]}),
                7,
                "runtimeConfig.ips",
            ),
            (
                "prevResult",
                json!({"ips": [{"address": "x"}]}),
                7,
                "prevResult",
            ),
            ("prevResult", json!({}), 2, "prevResult"),
        ];
        for (key, value, code, names) in table {
            let (got, msg) = refusal(&base(key, value.clone()), Verb::Add);
            assert!(
                got == code && msg.contains(names),
                "{key}={value}: {got} {msg}"
            );
        }
        assert_eq!(refusal(&json!({"name": "net"}), Verb::Add).0, 1);
        assert_eq!(refusal(&json!({"cniVersion": "1.0.0"}), Verb::Add).0, 7);
        assert_eq!(refusal(&json!([]), Verb::Add).0, 6);
        assert_eq!(
            Config::parse(b"\xff{}", Verb::Add).unwrap_err().code,
            Code::Decode
        );
        assert_eq!(
            Config::parse(&vec![b' '; MAX_STDIN + 1], Verb::Add)
                .unwrap_err()
                .code,
            Code::Decode
        );
    }

    #[test]
    fn an_absent_list_of_attachments_is_not_an_empty_one() {
        let conf = json!({ "name": "net", "cniVersion": "1.1.0" });
        assert_eq!(refusal(&conf, Verb::Gc).0, 7);
        let conf = json!({ "name": "net", "cniVersion": "1.1.0", "cni.dev/valid-attachments": [] });
        assert_eq!(
            parse(&conf, Verb::Gc).unwrap().attachments,
            Some(Attachments(Vec::new()))
        );
        let conf = json!({ "name": "net", "cniVersion": "1.1.0", "cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"}] });
        assert!(
            parse(&conf, Verb::Gc)
                .unwrap()
                .attachments
                .unwrap()
                .contains("a", "eth0")
        );
    }

    #[test]
    fn a_del_does_not_fail_over_a_previous_result_it_does_not_need() {
        let conf = json!({ "name": "net", "cniVersion": "1.0.0", "prevResult": "rubbish" });
        assert!(parse(&conf, Verb::Del).is_ok());
    }

    proptest! {
        #[test]
        fn no_stdin_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for verb in Verb::ALL {
                let _ = Config::parse(&bytes, verb);
            }
            let _ = Config::peek(&bytes);
        }

        #[test]
        fn no_value_of_a_known_key_panics(key in prop::sample::select(vec!["cniVersion", "name", "mtu", "ipam", "dns", "args", "prevResult", "runtimeConfig", "cni.dev/attachments", "container_settings", "status"]), text in "[\\[\\]{}\":a-z0-9,]{0,24}") {
            let value = serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text));
            let mut conf = json!({ "name": "net", "cniVersion": "1.1.0" });
            conf.as_object_mut().unwrap().insert(key.into(), value);
            for verb in Verb::ALL {
                if let Err(failure) = parse(&conf, verb) {
                    prop_assert!(matches!(failure.code, Code::IncompatibleVersion | Code::UnsupportedField | Code::InvalidConfig), "{failure:?}");
                }
            }
        }
    }
}
