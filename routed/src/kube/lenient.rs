//! Configuration objects read field by field: one bad setting costs itself and not the others (api page §11.4).
//!
//! A field whose value cannot be used is taken out before the object is read, so the next value in precedence holds for it:
//! another object's, or the built-in one. Entries of lists are left to whoever reads the list, which skips the bad one: without
//! the good ranges of a list, routes would be withdrawn.

use std::fmt::Write as _;

use api::{
    BGPConfiguration, BGPConfigurationSpec, FelixConfiguration, FelixConfigurationSpec, Finding,
    Severity, validate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// A kind that is read field by field.
pub trait Configuration: Resource<DynamicType = ()> {
    /// Its settings.
    type Spec: DeserializeOwned + Default;

    /// The object of these parts.
    fn assemble(metadata: ObjectMeta, spec: Self::Spec) -> Self;
}

impl Configuration for FelixConfiguration {
    type Spec = FelixConfigurationSpec;

    fn assemble(metadata: ObjectMeta, spec: Self::Spec) -> Self {
        Self {
            metadata,
            spec,
            status: None,
        }
    }
}

impl Configuration for BGPConfiguration {
    type Spec = BGPConfigurationSpec;

    fn assemble(metadata: ObjectMeta, spec: Self::Spec) -> Self {
        Self {
            metadata,
            spec,
            status: None,
        }
    }
}

/// An object without the settings that cannot be used, and what was wrong with them.
#[derive(Clone, Debug)]
pub struct Lenient<K> {
    /// The object.
    pub object: K,
    /// What was taken out, in order of paths.
    pub findings: Vec<Finding>,
}

impl<K> Lenient<K> {
    /// What was taken out as one sentence, if anything was.
    pub fn complaint(&self) -> Option<String> {
        let mut text = String::new();
        for finding in &self.findings {
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{separator}{}: {}", finding.path, finding.message);
        }
        (!text.is_empty()).then_some(text)
    }
}

#[derive(Deserialize)]
struct Raw {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Map<String, Value>,
}

impl<'de, K: Configuration> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Raw { metadata, mut spec } = Raw::deserialize(deserializer)?;
        let mut findings = take_out::<K>(&metadata, &mut spec);
        let (spec, unread) = api::tolerant(&spec);
        findings.extend(unread);
        Ok(Self {
            object: K::assemble(metadata, spec),
            findings,
        })
    }
}

/// Removes the settings that a rule refuses as a whole. A selector stays: without it the object would be about other nodes.
fn take_out<K: Configuration>(
    metadata: &ObjectMeta,
    spec: &mut Map<String, Value>,
) -> Vec<Finding> {
    let whole = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": metadata.name },
        "spec": &*spec,
    });
    let mut findings = validate::validate_object(&K::kind(&()), &whole);
    findings.retain(|finding| {
        let field = finding.path.strip_prefix("spec.");
        finding.severity == Severity::Refuse
            && field.is_some_and(|field| field != "nodeSelector" && spec.remove(field).is_some())
    });
    findings
}

impl<K: Configuration> Resource for Lenient<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.object.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.object.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn felix(spec: &Value) -> Lenient<FelixConfiguration> {
        let object = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "FelixConfiguration",
            "metadata": { "name": "default", "resourceVersion": "7" },
            "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    fn paths<K>(read: &Lenient<K>) -> Vec<&str> {
        read.findings
            .iter()
            .map(|finding| finding.path.as_str())
            .collect()
    }

    #[test]
    fn a_good_object_is_read_whole() {
        let read = felix(&json!({"vxlanPort": 4790, "logSeverityScreen": "Debug"}));
        assert_eq!(read.object.spec.vxlan_port, Some(4790));
        assert_eq!(read.object.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(read.complaint(), None);
    }

    #[test]
    fn a_bad_setting_costs_itself_only() {
        let read = felix(&json!({
            "vxlanPort": "many",
            "nftablesMarkMask": 3,
            "mtuIfacePattern": "eth(",
            "failsafeInboundHostPorts": [{"port": "ssh"}],
            "healthPort": 9100,
        }));
        let spec = &read.object.spec;
        assert_eq!(spec.health_port, Some(9100));
        assert_eq!(spec.vxlan_port, None);
        assert_eq!(spec.nftables_mark_mask, None);
        assert_eq!(spec.mtu_iface_pattern, None);
        assert_eq!(
            spec.failsafe_inbound_host_ports, None,
            "the built-in ones hold"
        );
        let mut named = paths(&read);
        named.sort_unstable();
        assert_eq!(
            named,
            [
                "spec.failsafeInboundHostPorts",
                "spec.mtuIfacePattern",
                "spec.nftablesMarkMask",
                "spec.vxlanPort"
            ]
        );
    }

    #[test]
    fn entries_of_lists_and_selectors_stay() {
        let object = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "BGPConfiguration",
            "metadata": { "name": "default" },
            "spec": { "asNumber": 64_513, "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}, {"cidr": "10.97"}] },
        });
        let read: Lenient<BGPConfiguration> = serde_json::from_value(object).unwrap();
        assert_eq!(read.object.spec.service_cluster_ips.len(), 2);
        let scoped = felix(&json!({"nodeSelector": "rack == a"}));
        assert_eq!(
            scoped.object.spec.node_selector.as_deref(),
            Some("rack == a")
        );
    }
}
