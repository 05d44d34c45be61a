//! The environment of an exec: `CNI_*` variables, checked at the border.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::{Code, Failure, Verb};

/// The longest container id accepted, in bytes.
const MAX_CONTAINER_ID: usize = 256;
/// The longest network name accepted, in bytes.
const MAX_NETWORK_NAME: usize = 128;
/// The kernel's IFNAMSIZ without the closing zero.
const MAX_IFNAME: usize = 15;
/// The longest `CNI_ARGS` or path accepted, in bytes: `PATH_MAX` of Linux.
const MAX_TEXT: usize = 4096;

/// The `CNI_*` variables as the runtime set them; absent ones are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// `CNI_PATH`.
    pub path: String,
}

impl Environment {
    /// Reads the variables through `lookup`.
    ///
    /// # Errors
    /// Code 4 for one that is not UTF-8.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let text = |name: &str| match lookup(name) {
            None => Ok(String::new()),
            Some(value) => value
                .into_string()
                .map_err(|_bytes| invalid(format!("{name} is not UTF-8"))),
        };
        Ok(Self {
            command: text("CNI_COMMAND")?,
            container_id: text("CNI_CONTAINERID")?,
            netns: text("CNI_NETNS")?,
            ifname: text("CNI_IFNAME")?,
            args: text("CNI_ARGS")?,
            path: text("CNI_PATH")?,
        })
    }

    /// Checks what `verb` needs: presence first, all missing ones named at once, then the form of each.
    ///
    /// # Errors
    /// Code 4.
    pub fn check(&self, verb: Verb) -> Result<(), Failure> {
        let missing: Vec<&str> = verb
            .required()
            .iter()
            .copied()
            .filter(|name| self.value(name).is_empty())
            .collect();
        if !missing.is_empty() {
            return Err(invalid(format!(
                "{verb} needs {} in the environment",
                missing.join(", ")
            )));
        }
        if !verb.names_an_attachment() {
            return Ok(());
        }
        check_identifier("CNI_CONTAINERID", &self.container_id, MAX_CONTAINER_ID)?;
        check_ifname(&self.ifname)?;
        check_netns(&self.netns)?;
        self.arguments().map(drop)
    }

    /// Parses `CNI_ARGS`.
    ///
    /// # Errors
    /// Code 4.
    pub fn arguments(&self) -> Result<Arguments, Failure> {
        Arguments::parse(&self.args)
    }

    fn value(&self, name: &str) -> &str {
        match name {
            "CNI_CONTAINERID" => &self.container_id,
            "CNI_NETNS" => &self.netns,
            "CNI_IFNAME" => &self.ifname,
            "CNI_PATH" => &self.path,
            _ => "",
        }
    }
}

/// `CNI_ARGS`, `k=v;k=v`. Keys we do not know are kept and tolerated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments(BTreeMap<String, String>);

/// Which Kubernetes pod a sandbox is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodArguments {
    /// `K8S_POD_NAMESPACE`, a legal namespace name.
    pub namespace: String,
    /// `K8S_POD_NAME`, a legal pod name.
    pub name: String,
    /// `K8S_POD_UID`, when the runtime gives it.
    pub uid: Option<String>,
}

impl Arguments {
    /// # Errors
    /// Code 4 for a pair without `=`, or a text beyond 4 KiB.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text.len() > MAX_TEXT {
            return Err(invalid(format!(
                "CNI_ARGS is {} bytes long, at most {MAX_TEXT} are accepted",
                text.len()
            )));
        }
        let mut pairs = BTreeMap::new();
        for pair in text
            .split(';')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(invalid(format!(
                    "CNI_ARGS: {:?} is not of the form key=value",
                    shown(pair)
                )));
            };
            pairs.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self(pairs))
    }

    /// The value of `key`, `None` when absent or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The pod, or `None` when the runtime is not Kubernetes.
    ///
    /// # Errors
    /// Code 4 when one of namespace and name is missing, or not a legal Kubernetes name.
    pub fn pod(&self) -> Result<Option<PodArguments>, Failure> {
        let (namespace, name) = match (self.get("K8S_POD_NAMESPACE"), self.get("K8S_POD_NAME")) {
            (None, None) => return Ok(None),
            (Some(_), None) => {
                return Err(invalid(
                    "CNI_ARGS has K8S_POD_NAMESPACE but no K8S_POD_NAME",
                ));
            }
            (None, Some(_)) => {
                return Err(invalid(
                    "CNI_ARGS has K8S_POD_NAME but no K8S_POD_NAMESPACE",
                ));
            }
            (Some(namespace), Some(name)) => (namespace, name),
        };
        if !is_dns_label(namespace) {
            return Err(invalid(format!(
                "K8S_POD_NAMESPACE {:?} is not a legal namespace name",
                shown(namespace)
            )));
        }
        if !is_dns_subdomain(name) {
            return Err(invalid(format!(
                "K8S_POD_NAME {:?} is not a legal pod name",
                shown(name)
            )));
        }
        let uid = self.get("K8S_POD_UID");
        if let Some(uid) = uid.filter(|uid| {
            uid.len() > 64 || !uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }) {
            return Err(invalid(format!(
                "K8S_POD_UID {:?} is not a uid",
                shown(uid)
            )));
        }
        Ok(Some(PodArguments {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.map(str::to_owned),
        }))
    }
}

/// True for a name of RFC 1123 labels joined by dots, at most 253 bytes.
pub fn is_dns_subdomain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 253 && text.split('.').all(|label| is_label(label, 253))
}

fn is_dns_label(text: &str) -> bool {
    is_label(text, 63)
}

fn is_label(text: &str, longest: usize) -> bool {
    let edge =
        |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= longest
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// The network name of a configuration.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(super) fn check_network_name(name: &str) -> Result<(), String> {
    check_identifier("name", name, MAX_NETWORK_NAME).map_err(|failure| failure.msg)
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`, CNI specification, section 2 "Execution protocol".
fn check_identifier(what: &str, text: &str, longest: usize) -> Result<(), Failure> {
    if text.len() > longest {
        return Err(invalid(format!(
            "{what} is {} bytes long, at most {longest} are accepted",
            text.len()
        )));
    }
    let legal = text.bytes().enumerate().all(|(at, byte)| {
        byte.is_ascii_alphanumeric() || (at > 0 && matches!(byte, b'_' | b'.' | b'-'))
    });
    if legal && !text.is_empty() {
        return Ok(());
    }
    Err(invalid(format!(
        "{what} {:?} must begin with a letter or digit and hold only letters, digits, '_', '.' and '-'",
        shown(text)
    )))
}

fn check_ifname(name: &str) -> Result<(), Failure> {
    let legal = (1..=MAX_IFNAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if legal {
        return Ok(());
    }
    Err(invalid(format!(
        "CNI_IFNAME {:?} is not an interface name: 1 to {MAX_IFNAME} bytes without '/', ':' or blanks",
        shown(name)
    )))
}

fn check_netns(path: &str) -> Result<(), Failure> {
    let legal = path.is_empty()
        || (path.len() <= MAX_TEXT
            && path.starts_with('/')
            && !path.contains('\0')
            && !path.split('/').any(|part| part == ".."));
    if legal {
        return Ok(());
    }
    Err(invalid(format!(
        "CNI_NETNS {:?} must be an absolute path without '..'",
        shown(path)
    )))
}

fn invalid(msg: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidEnvironment, msg)
}

/// At most 64 characters of foreign text, for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn add() -> Environment {
        Environment {
            command: "ADD".into(),
            container_id: "c0ffee".into(),
            netns: "/run/netns/cni-1".into(),
            ifname: "eth0".into(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0.x;K8S_POD_UID=7f-1;FUTURE=;".into(),
            path: "/opt/cni/bin".into(),
        }
    }

    #[test]
    fn all_missing_variables_are_named_at_once() {
        let failure = Environment::default().check(Verb::Add).unwrap_err();
        assert_eq!(failure.code, Code::InvalidEnvironment);
        assert_eq!(
            failure.msg,
            "ADD needs CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME in the environment"
        );
        assert_eq!(Environment::default().check(Verb::Status), Ok(()));
        assert!(
            Environment::default()
                .check(Verb::Gc)
                .unwrap_err()
                .msg
                .contains("CNI_PATH")
        );
    }

    #[test]
    fn del_needs_no_namespace() {
        let environment = Environment {
            netns: String::new(),
            ..add()
        };
        assert_eq!(environment.check(Verb::Del), Ok(()));
    }

    #[test]
    fn the_border_refuses_with_code_4() {
        let broken = [
            Environment {
                container_id: "../etc".into(),
                ..add()
            },
            Environment {
                container_id: "_x".into(),
                ..add()
            },
            Environment {
                container_id: "x".repeat(257),
                ..add()
            },
            Environment {
                ifname: "..".into(),
                ..add()
            },
            Environment {
                ifname: "eth/0".into(),
                ..add()
            },
            Environment {
                ifname: "eth:0".into(),
                ..add()
            },
            Environment {
                ifname: "et h".into(),
                ..add()
            },
            Environment {
                ifname: "sixteen-letters.".into(),
                ..add()
            },
            Environment {
                netns: "run/netns/x".into(),
                ..add()
            },
            Environment {
                netns: "/run/../proc/1/ns/net".into(),
                ..add()
            },
            Environment {
                args: "noequals".into(),
                ..add()
            },
        ];
        for environment in broken {
            assert_eq!(
                environment.check(Verb::Add).map_err(|failure| failure.code),
                Err(Code::InvalidEnvironment),
                "{environment:?}"
            );
        }
    }

    #[test]
    fn the_pod_is_both_names_or_none() {
        let pod = add().arguments().unwrap().pod().unwrap().unwrap();
        assert_eq!(
            (
                pod.namespace.as_str(),
                pod.name.as_str(),
                pod.uid.as_deref()
            ),
            ("shop", "web-0.x", Some("7f-1"))
        );
        assert_eq!(Arguments::parse("").unwrap().pod(), Ok(None));
        for half in [
            "K8S_POD_NAMESPACE=shop",
            "K8S_POD_NAME=web",
            "K8S_POD_NAMESPACE=Shop;K8S_POD_NAME=web",
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=../x",
        ] {
            assert!(Arguments::parse(half).unwrap().pod().is_err(), "{half}");
        }
    }

    proptest! {
        #[test]
        fn no_environment_panics_and_every_refusal_is_code_4(id in ".{0,40}", netns in ".{0,20}", ifname in ".{0,20}", args in ".{0,60}") {
            let environment = Environment { container_id: id, netns, ifname, args, ..Environment::default() };
            for verb in Verb::ALL {
                if let Err(failure) = environment.check(verb) {
                    prop_assert_eq!(failure.code, Code::InvalidEnvironment);
                }
            }
            if let Ok(arguments) = environment.arguments() {
                let _ = arguments.pod();
            }
        }
    }
}
