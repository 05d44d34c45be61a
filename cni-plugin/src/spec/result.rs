//! The result of an ADD, neutral of version, rendered in and read from each.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::Version;

/// What an ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Host end first, then the sandbox's end.
    pub interfaces: Vec<Interface>,
    /// Addresses, IPv4 first.
    pub ips: Vec<Ip>,
    /// Routes inside the sandbox.
    pub routes: Vec<Route>,
    /// `dns` as the configuration had it.
    pub dns: Option<Value>,
}

/// One link of the result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC as text, when it is part of the answer.
    pub mac: Option<String>,
    /// Its MTU; shown from 1.1.0 on.
    pub mtu: Option<u32>,
    /// Path of its namespace; `None` on the host.
    pub sandbox: Option<String>,
}

/// One address of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Address with prefix length.
    pub address: IpNet,
    /// Index into [`Outcome::interfaces`].
    pub interface: Option<usize>,
    /// Gateway; we never name one.
    pub gateway: Option<IpAddr>,
}

/// One route of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Gateway, if it is not the address's own.
    pub gw: Option<IpAddr>,
}

impl Outcome {
    /// Renders it in `version`.
    pub fn render(&self, version: Version) -> Value {
        let mut object = json!({
            "cniVersion": version.as_str(),
            "interfaces": self.interfaces.iter().map(|interface| interface.render(version)).collect::<Vec<_>>(),
            "ips": self.ips.iter().map(|ip| ip.render(version)).collect::<Vec<_>>(),
            "routes": self.routes.iter().map(Route::render).collect::<Vec<_>>(),
        });
        if let (Some(map), Some(dns)) = (object.as_object_mut(), &self.dns) {
            map.insert("dns".into(), dns.clone());
        }
        object
    }

    /// Reads a `prevResult` of `version`. Fields later plugins added are ignored.
    ///
    /// # Errors
    /// A sentence that names the part that cannot be read.
    pub fn parse(value: &Value, version: Version) -> Result<Self, String> {
        let map = value.as_object().ok_or("it is not an object")?;
        if let Some(said) = map.get("cniVersion").and_then(Value::as_str)
            && said != version.as_str()
        {
            return Err(format!(
                "it has cniVersion {said:?} inside a configuration of {version}"
            ));
        }
        Ok(Self {
            interfaces: list(map, "interfaces")?
                .iter()
                .map(Interface::parse)
                .collect::<Result<_, _>>()?,
            ips: list(map, "ips")?
                .iter()
                .map(Ip::parse)
                .collect::<Result<_, _>>()?,
            routes: list(map, "routes")?
                .iter()
                .map(Route::parse)
                .collect::<Result<_, _>>()?,
            dns: map.get("dns").cloned(),
        })
    }

    /// The interface inside the sandbox that is called `ifname`.
    pub fn sandbox_interface(&self, ifname: &str) -> Option<&Interface> {
        self.interfaces
            .iter()
            .find(|interface| interface.name == ifname && interface.sandbox.is_some())
    }
}

impl Interface {
    fn render(&self, version: Version) -> Value {
        let mut map = Map::new();
        map.insert("name".into(), self.name.clone().into());
        if let Some(mac) = &self.mac {
            map.insert("mac".into(), mac.clone().into());
        }
        if let (Some(mtu), true) = (self.mtu, version >= Version::V1_1_0) {
            map.insert("mtu".into(), mtu.into());
        }
        if let Some(sandbox) = &self.sandbox {
            map.insert("sandbox".into(), sandbox.clone().into());
        }
        Value::Object(map)
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let text = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        Ok(Self {
            name: text("name").ok_or("an interface has no name")?,
            mac: text("mac"),
            mtu: value
                .get("mtu")
                .and_then(Value::as_u64)
                .and_then(|mtu| u32::try_from(mtu).ok()),
            sandbox: text("sandbox"),
        })
    }
}

impl Ip {
    fn render(&self, version: Version) -> Value {
        let mut map = Map::new();
        if version < Version::V1_0_0 {
            let family = if self.address.addr().is_ipv4() {
                "4"
            } else {
                "6"
            };
            map.insert("version".into(), family.into());
        }
        map.insert("address".into(), self.address.to_string().into());
        if let Some(interface) = self.interface {
            map.insert("interface".into(), interface.into());
        }
        if let Some(gateway) = self.gateway {
            map.insert("gateway".into(), gateway.to_string().into());
        }
        Value::Object(map)
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let text = value
            .get("address")
            .and_then(Value::as_str)
            .ok_or("an entry of ips has no address")?;
        Ok(Self {
            address: text
                .parse()
                .map_err(|error| format!("address {text:?} of ips: {error}"))?,
            interface: value
                .get("interface")
                .and_then(Value::as_u64)
                .and_then(|at| usize::try_from(at).ok()),
            gateway: gateway(value, "gateway")?,
        })
    }
}

impl Route {
    fn render(&self) -> Value {
        let mut map = Map::new();
        map.insert("dst".into(), self.dst.to_string().into());
        if let Some(gw) = self.gw {
            map.insert("gw".into(), gw.to_string().into());
        }
        Value::Object(map)
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let text = value
            .get("dst")
            .and_then(Value::as_str)
            .ok_or("a route has no dst")?;
        Ok(Self {
            dst: text
                .parse()
                .map_err(|error| format!("dst {text:?} of a route: {error}"))?,
            gw: gateway(value, "gw")?,
        })
    }
}

fn gateway(value: &Value, key: &str) -> Result<Option<IpAddr>, String> {
    match value
        .get(key)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
    {
        None => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|error| format!("{key} {text:?}: {error}")),
    }
}

fn list<'a>(map: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            Err(format!("{key} is not a list"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            interfaces: vec![
                Interface {
                    name: "cali0".into(),
                    ..Interface::default()
                },
                Interface {
                    name: "eth0".into(),
                    mac: Some("aa:bb:cc:dd:ee:ff".into()),
                    mtu: Some(1450),
                    sandbox: Some("/run/netns/x".into()),
                },
            ],
            ips: vec![
                Ip {
                    address: "10.0.0.7/32".parse().unwrap(),
                    interface: Some(1),
                    gateway: None,
                },
                Ip {
                    address: "fd00::7/128".parse().unwrap(),
                    interface: Some(1),
                    gateway: None,
                },
            ],
            routes: vec![Route {
                dst: "10.0.0.7/32".parse().unwrap(),
                gw: None,
            }],
            dns: Some(json!({ "nameservers": ["10.96.0.10"] })),
        }
    }

    #[test]
    fn reading_back_what_was_rendered_loses_only_what_the_version_cannot_say() {
        for version in Version::ALL {
            let mut wanted = outcome();
            if version < Version::V1_1_0 {
                wanted.interfaces[1].mtu = None;
            }
            assert_eq!(
                Outcome::parse(&outcome().render(version), version),
                Ok(wanted),
                "{version}"
            );
        }
    }

    #[test]
    fn a_result_of_another_version_than_its_configuration_is_refused() {
        let rendered = outcome().render(Version::V0_4_0);
        assert!(
            Outcome::parse(&rendered, Version::V1_0_0)
                .unwrap_err()
                .contains("0.4.0")
        );
    }
}
