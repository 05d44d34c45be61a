//! Which pools a cluster without pools gets: one for each family its nodes have.
//!
//! | setting (`MARGAY_DEFAULT_POOL`) | ranges |
//! |---|---|
//! | empty | none |
//! | `auto` | kubeadm's `podSubnet`; a family it leaves out: the built-in range |
//! | list | these |
//!
//! A family that has a pool already, or that no node has an address of, gets none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipam::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

/// What the operator set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// Find out.
    Auto,
    /// These, at most one of each family.
    These(Vec<IpNet>),
}

/// The setting is neither `auto` nor a list of ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "MARGAY_DEFAULT_POOL: {0:?} is no range; write auto, or one range per family such as 10.244.0.0/16,fd00:10:244::/56"
)]
pub(super) struct BadSetting(String);

impl Setting {
    /// Reads the setting; `None` = no pool is wanted.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, BadSetting> {
        match text.trim() {
            "" => Ok(None),
            "auto" => Ok(Some(Self::Auto)),
            list => ranges(list).map(|ranges| Some(Self::These(ranges))),
        }
    }
}

/// What the cluster says about itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Addresses of type `InternalIP` of all nodes.
    pub(super) node_addresses: Vec<IpAddr>,
    /// `podSubnet` of kubeadm.
    pub(super) pod_subnets: Vec<IpNet>,
    /// Ranges of the pools there are.
    pub(super) pools: Vec<IpNet>,
}

/// `networking.podSubnet` of kubeadm's `ClusterConfiguration`; what cannot be read counts as not set.
pub(super) fn pod_subnets(configuration: &str) -> Vec<IpNet> {
    serde_yaml::from_str::<Value>(configuration)
        .ok()
        .and_then(|value| {
            let text = value.pointer("/networking/podSubnet")?.as_str()?;
            ranges(text).ok()
        })
        .unwrap_or_default()
}

/// Names and specs of the pools to create.
pub(super) fn wanted(setting: &Setting, facts: &Facts) -> Vec<(&'static str, Value)> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| {
            let has_pool = facts.pools.iter().any(|pool| Family::of(*pool) == *family);
            let mut nodes = facts.node_addresses.iter();
            !has_pool && nodes.any(|address| Family::of_address(*address) == *family)
        })
        .filter_map(|family| {
            let of = |ranges: &[IpNet]| {
                ranges
                    .iter()
                    .copied()
                    .find(|range| Family::of(*range) == family)
            };
            let range = match setting {
                Setting::These(ranges) => of(ranges)?,
                Setting::Auto => of(&facts.pod_subnets).unwrap_or_else(|| built_in(family)),
            };
            Some((name(family), spec(range)))
        })
        .collect()
}

fn ranges(list: &str) -> Result<Vec<IpNet>, BadSetting> {
    let words = list
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words
        .map(|word| {
            word.parse::<IpNet>()
                .map(|range| range.trunc())
                .map_err(|_not_a_range| BadSetting(word.to_owned()))
        })
        .collect()
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "default-ipv4-ippool",
        Family::V6 => "default-ipv6-ippool",
    }
}

fn built_in(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16).into(),
        Family::V6 => {
            Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 56).into()
        }
    }
}

/// Plain inside a subnet, VXLAN between subnets. Addresses that mean nothing outside are masqueraded there; public IPv6 ones are not.
fn spec(range: IpNet) -> Value {
    let private = match range {
        IpNet::V4(_) => true,
        IpNet::V6(range) => range.network().is_unique_local(),
    };
    json!({ "cidr": range.to_string(), "vxlanMode": "CrossSubnet", "natOutgoing": private })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(nodes: &[&str], kubeadm: &[&str], pools: &[&str]) -> Facts {
        let nets = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Facts {
            node_addresses: nodes.iter().map(|text| text.parse().unwrap()).collect(),
            pod_subnets: nets(kubeadm),
            pools: nets(pools),
        }
    }

    #[test]
    fn one_pool_for_each_family_the_nodes_have_and_no_pool_serves() {
        let both = ["10.0.0.1", "fd00::1"];
        let listed = "10.1.0.0/16, fd01::/56";
        for (setting, facts, expected) in [
            ("auto", facts(&["10.0.0.1"], &[], &[]), "10.244.0.0/16"),
            ("auto", facts(&["fd00::1"], &[], &[]), "fd00:10:244::/56"),
            (
                "auto",
                facts(&both, &[], &[]),
                "10.244.0.0/16 fd00:10:244::/56",
            ),
            (
                "auto",
                facts(&both, &["10.9.0.0/16"], &[]),
                "10.9.0.0/16 fd00:10:244::/56",
            ),
            (
                "auto",
                facts(&both, &[], &["192.168.0.0/16"]),
                "fd00:10:244::/56",
            ),
            ("auto", facts(&[], &["10.9.0.0/16"], &[]), ""),
            (
                listed,
                facts(&both, &["10.9.0.0/16"], &[]),
                "10.1.0.0/16 fd01::/56",
            ),
            (listed, facts(&["10.0.0.1"], &[], &[]), "10.1.0.0/16"),
            ("10.1.0.0/16", facts(&both, &[], &[]), "10.1.0.0/16"),
            ("10.1.0.0/16", facts(&["fd00::1"], &[], &[]), ""),
        ] {
            let parsed = Setting::parse(setting).unwrap().unwrap();
            let made: Vec<String> = wanted(&parsed, &facts)
                .iter()
                .map(|(_, spec)| spec["cidr"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(made.join(" "), expected, "{setting} {facts:?}");
        }
    }

    #[test]
    fn public_addresses_are_not_masqueraded() {
        for (range, masqueraded) in [
            ("10.1.0.0/16", true),
            ("fd00:1::/56", true),
            ("2001:db8::/56", false),
        ] {
            assert_eq!(spec(range.parse().unwrap())["natOutgoing"], masqueraded);
        }
    }

    #[test]
    fn a_setting_that_is_no_range_is_named() {
        assert_eq!(Setting::parse(" "), Ok(None));
        let bad = Setting::parse("10.244.0.0/16,nonsense").unwrap_err();
        assert!(bad.to_string().contains("nonsense"), "{bad}");
    }

    #[test]
    fn kubeadms_configuration_is_read_as_far_as_it_can_be() {
        let text = "apiVersion: kubeadm.k8s.io/v1beta4\nnetworking:\n  podSubnet: 10.9.0.0/16,fd09::/56\n  dnsDomain: x\n";
        assert_eq!(pod_subnets(text).len(), 2);
        assert_eq!(pod_subnets("networking: {}"), []);
        assert_eq!(pod_subnets(": :"), []);
    }
}
