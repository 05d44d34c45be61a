use serde_json::{Value, json};

use super::*;

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// Path and severity of all findings.
fn judged(kind: &str, name: &str, spec: &Value) -> Vec<(String, Severity)> {
    validate_object(kind, &object(kind, name, spec))
        .into_iter()
        .map(|f| (f.path, f.severity))
        .collect()
}

#[track_caller]
fn refused(kind: &str, name: &str, spec: &Value, path: &str) {
    let mut found = judged(kind, name, spec);
    found.retain(|(_, severity)| *severity == Severity::Refuse);
    assert_eq!(found, [(path.to_owned(), Severity::Refuse)], "{spec}");
}

#[track_caller]
fn clean(kind: &str, name: &str, spec: &Value) {
    let found = validate_object(kind, &object(kind, name, spec));
    assert!(found.is_empty(), "{spec}: {found:?}");
}

#[test]
fn pools_are_judged() {
    let refused = |spec, path| refused("IPPool", "p", &spec, path);
    clean(
        "IPPool",
        "p",
        &json!({"cidr": "10.244.0.0/16", "ipipMode": "Never", "vxlanMode": "CrossSubnet", "natOutgoing": true, "nodeSelector": "all()"}),
    );
    clean(
        "IPPool",
        "p",
        &json!({"cidr": "fd00:244::/48", "blockSize": 122, "allowedUses": ["Workload", "Tunnel"]}),
    );
    clean(
        "IPPool",
        "p",
        &json!({"cidr": "10.0.0.0/28", "disabled": true}),
    );
    refused(json!({"cidr": "10.244.0.0"}), "spec.cidr");
    refused(json!({"cidr": "10.244.0.1/16"}), "spec.cidr");
    refused(json!({"cidr": "169.254.8.0/24"}), "spec.cidr");
    refused(json!({"cidr": "10.0.0.0/28"}), "spec.blockSize");
    refused(
        json!({"cidr": "10.0.0.0/16", "blockSize": 19}),
        "spec.blockSize",
    );
    refused(
        json!({"cidr": "fd00::/64", "blockSize": 26}),
        "spec.blockSize",
    );
    refused(
        json!({"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"}),
        "spec.ipipMode",
    );
    refused(
        json!({"cidr": "fd00::/64", "ipipMode": "Always"}),
        "spec.ipipMode",
    );
    refused(
        json!({"cidr": "10.0.0.0/16", "nodeSelector": "rack == a"}),
        "spec.nodeSelector",
    );
    refused(
        json!({"cidr": "10.0.0.0/16", "namespaceSelector": "global()"}),
        "spec.namespaceSelector",
    );
    refused(
        json!({"cidr": "10.0.0.0/16", "namespaceSelector": "has(a)", "allowedUses": ["Tunnel"]}),
        "spec.namespaceSelector",
    );
    refused(
        json!({"cidr": "10.0.0.0/16", "ipipMode": "Sometimes"}),
        "spec.ipipMode",
    );
    let large = judged(
        "IPPool",
        "p",
        &json!({"cidr": "10.0.0.0/16", "blockSize": 20}),
    );
    assert_eq!(large, [("spec.blockSize".to_owned(), Severity::Warn)]);
}

#[test]
fn address_configuration_is_judged() {
    clean(
        "IPAMConfiguration",
        "default",
        &json!({"strictAffinity": true, "autoAllocateBlocks": false, "maxBlocksPerHost": 4}),
    );
    refused(
        "IPAMConfiguration",
        "other",
        &json!({"strictAffinity": false}),
        "metadata.name",
    );
    refused(
        "IPAMConfiguration",
        "default",
        &json!({"autoAllocateBlocks": false}),
        "spec.autoAllocateBlocks",
    );
    refused(
        "IPReservation",
        "r",
        &json!({"reservedCIDRs": ["10.0.0.0/30", "10.0.0"]}),
        "spec.reservedCIDRs[1]",
    );
    let warned = judged(
        "IPAMConfiguration",
        "default",
        &json!({"maxBlocksPerHost": 4}),
    );
    assert_eq!(
        warned,
        [("spec.maxBlocksPerHost".to_owned(), Severity::Warn)]
    );
}

#[test]
fn bgp_configurations_are_judged() {
    let refused = |spec, path| refused("BGPConfiguration", "default", &spec, path);
    clean(
        "BGPConfiguration",
        "default",
        &json!({"asNumber": 4_200_000_000_u32, "nodeToNodeMeshEnabled": false, "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}),
    );
    clean(
        "BGPConfiguration",
        "default",
        &json!({"communities": [{"name": "gold", "value": "65000:1"}],
        "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["gold", "1:2:3"]}]}),
    );
    clean(
        "BGPConfiguration",
        "node.a1",
        &json!({"listenPort": 1179, "logSeverityScreen": "debug", "serviceLoadBalancerAggregation": "Enabled"}),
    );
    refused(
        json!({"nodeToNodeMeshEnabled": false, "nodeMeshMaxRestartTime": "60s"}),
        "spec.nodeMeshMaxRestartTime",
    );
    refused(
        json!({"serviceExternalIPs": [{"cidr": "10.0.0"}]}),
        "spec.serviceExternalIPs[0].cidr",
    );
    refused(
        json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["gold"]}]}),
        "spec.prefixAdvertisements[0].communities[0]",
    );
    refused(
        json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["65536:1"]}]}),
        "spec.prefixAdvertisements[0].communities[0]",
    );
    refused(
        json!({"ignoredInterfaces": ["eth*", "*"]}),
        "spec.ignoredInterfaces[1]",
    );
    refused(json!({"asNumber": -1}), "spec.asNumber");
    refused(
        json!({"nodeMeshMaxRestartTime": "soon"}),
        "spec.nodeMeshMaxRestartTime",
    );
    let name = validate_object(
        "BGPConfiguration",
        &object("BGPConfiguration", "mine", &json!({})),
    );
    assert_eq!(
        name.iter().map(|f| f.rule).collect::<Vec<_>>(),
        [NAME_NOT_USED]
    );
    let per_node = judged("BGPConfiguration", "node.a1", &json!({"asNumber": 1}));
    assert_eq!(
        per_node,
        [("spec.asNumber".to_owned(), Severity::Unsupported)]
    );
}

#[test]
fn peers_are_judged() {
    let refused = |spec, path| refused("BGPPeer", "p", &spec, path);
    clean(
        "BGPPeer",
        "p",
        &json!({"peerIP": "10.1.0.1", "asNumber": 65001, "nodeSelector": "rack == 'a'"}),
    );
    clean(
        "BGPPeer",
        "p",
        &json!({"peerIP": "[fd00::1]:1179", "asNumber": 65001, "password": {"secretKeyRef": {"name": "s", "key": "k"}}}),
    );
    clean(
        "BGPPeer",
        "p",
        &json!({"peerSelector": "has(route-reflector)", "nodeSelector": "all()"}),
    );
    clean(
        "BGPPeer",
        "p",
        &json!({"asNumber": 65001, "margay": {"unnumbered": "eth0"}}),
    );
    refused(json!({"asNumber": 65001}), "spec");
    refused(
        json!({"peerIP": "10.1.0.1:0", "asNumber": 1}),
        "spec.peerIP",
    );
    refused(
        json!({"peerIP": "fd00::1", "asNumber": 1, "reachableBy": "10.0.0.1"}),
        "spec.reachableBy",
    );
}

#[test]
fn peers_exclude_what_contradicts() {
    let refused = |spec, path| refused("BGPPeer", "p", &spec, path);
    refused(
        json!({"peerIP": "10.1.0.1", "asNumber": 1, "node": "a1", "nodeSelector": "all()"}),
        "spec.node",
    );
    refused(
        json!({"peerIP": "10.1.0.1", "peerSelector": "all()"}),
        "spec.peerIP",
    );
    refused(
        json!({"peerSelector": "all()", "asNumber": 1}),
        "spec.asNumber",
    );
    refused(json!({"peerSelector": "rack = 'a'"}), "spec.peerSelector");
    refused(
        json!({"peerIP": "10.1.0.1", "asNumber": 1, "keepOriginalNextHop": true, "nextHopMode": "Self"}),
        "spec.keepOriginalNextHop",
    );
    refused(
        json!({"peerIP": "10.1.0.1", "asNumber": 1, "password": {"secretKeyRef": {"name": "", "key": "k"}}}),
        "spec.password.secretKeyRef.name",
    );
}

#[test]
fn tiers_are_judged() {
    clean("Tier", "security", &json!({"order": 100.5}));
    clean("Tier", "default", &json!({"order": 1_000_000}));
    refused(
        "Tier",
        "kube-admin",
        &json!({"defaultAction": "Deny"}),
        "spec.defaultAction",
    );
    refused("Tier", "a.b", &json!({}), "metadata.name");
    refused(
        "Tier",
        "t",
        &json!({"defaultAction": "Allow"}),
        "spec.defaultAction",
    );
}

#[test]
fn policies_are_judged() {
    let global = |spec, path| refused("GlobalNetworkPolicy", "p", &spec, path);
    let namespaced = |spec, path| refused("NetworkPolicy", "p", &spec, path);
    clean(
        "GlobalNetworkPolicy",
        "default.db",
        &json!({
            "tier": "default", "order": 10, "selector": "app == 'db' && env in {'prod', 'test'}", "types": ["Ingress", "Egress"],
            "ingress": [{"action": "Allow", "protocol": "TCP", "source": {"selector": "app == 'web'"}, "destination": {"ports": [3306, "8000:8010", "http"]}}],
            "egress": [{"action": "Deny", "destination": {"nets": ["10.0.0.0/8", "192.0.2.1"], "namespaceSelector": "global()"}}],
        }),
    );
    clean("NetworkPolicy", "knp.default.a.b.c", &json!({}));
    global(json!({"selector": "app == backend"}), "spec.selector");
    global(json!({"selector": "has(a) || global()"}), "spec.selector");
    global(json!({"types": ["Ingress", "Ingress"]}), "spec.types[1]");
    global(json!({"tier": "A"}), "spec.tier");
    refused("NetworkPolicy", "a.b.c", &json!({}), "metadata.name");
    namespaced(
        json!({"serviceAccountSelector": "x"}),
        "spec.serviceAccountSelector",
    );
    namespaced(
        json!({"egress": [{"action": "Allow", "destination": {"services": {"name": "s"}, "ports": [1]}, "protocol": "TCP"}]}),
        "spec.egress[0].destination.services",
    );
    namespaced(
        json!({"ingress": [{"action": "Allow", "destination": {"services": {"name": "s"}}}]}),
        "spec.ingress[0].destination.services",
    );
    global(
        json!({"egress": [{"action": "Allow", "destination": {"services": {"name": "s"}}}]}),
        "spec.egress[0].destination.services.namespace",
    );
    let hooks = judged(
        "GlobalNetworkPolicy",
        "p",
        &json!({"preDNAT": true, "applyOnForward": true, "types": ["Ingress"]}),
    );
    assert_eq!(hooks, [("spec.preDNAT".to_owned(), Severity::Unsupported)]);
}

#[test]
fn rules_are_judged() {
    let cases = [
        (json!({"protocol": "FOO"}), ".protocol"),
        (json!({"protocol": 0}), ".protocol"),
        (json!({"icmp": {"type": 8}}), ".icmp"),
        (json!({"protocol": "ICMP", "icmp": {"code": 0}}), ".icmp"),
        (json!({"protocol": "ICMPv6", "ipVersion": 4}), ".protocol"),
        (json!({"notProtocol": 1, "ipVersion": 6}), ".notProtocol"),
        (json!({"source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}), ""),
        (
            json!({"source": {"nets": ["10.0.0.0/8"]}, "destination": {"notNets": ["fd00::/8"]}}),
            "",
        ),
        (
            json!({"ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}),
            "",
        ),
        (
            json!({"protocol": "ICMPv6", "source": {"nets": ["10.0.0.0/8"]}}),
            "",
        ),
        (json!({"source": {"nets": ["10.0.0"]}}), ".source.nets[0]"),
        (
            json!({"source": {"notNets": ["0.0.0.0/0"]}}),
            ".source.notNets[0]",
        ),
        (
            json!({"source": {"selector": "a = 'b'"}}),
            ".source.selector",
        ),
        (
            json!({"source": {"namespaceSelector": "global() && has(a)"}}),
            ".source.namespaceSelector",
        ),
        (
            json!({"source": {"serviceAccounts": {"selector": "x"}}}),
            ".source.serviceAccounts.selector",
        ),
        (
            json!({"destination": {"ports": [80]}}),
            ".destination.ports",
        ),
        (
            json!({"protocol": "ICMP", "destination": {"notPorts": ["80:90"]}}),
            ".destination.notPorts",
        ),
        (
            json!({"protocol": "ICMP", "destination": {"ports": ["http"]}}),
            ".destination.ports",
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": ["90:80"]}}),
            ".destination.ports[0]",
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": [0]}}),
            ".destination.ports[0]",
        ),
        (
            json!({"source": {"services": {"name": "s"}, "selector": "has(a)"}}),
            ".source.services",
        ),
        (
            json!({"source": {"services": {"name": ""}}}),
            ".source.services.name",
        ),
    ];
    for (mut rule, path) in cases {
        rule["action"] = json!("Allow");
        refused(
            "NetworkPolicy",
            "p",
            &json!({"ingress": [rule]}),
            &format!("spec.ingress[0]{path}"),
        );
    }
    let ports_by_name = json!({"action": "Allow", "destination": {"ports": ["http"]}});
    clean("NetworkPolicy", "p", &json!({"ingress": [ports_by_name]}));
    refused(
        "NetworkPolicy",
        "p",
        &json!({"ingress": [{"action": "Permit"}]}),
        "spec.ingress[0].action",
    );
}

#[test]
fn http_rules_are_reported_and_checked() {
    let found = |http: Value| {
        judged(
            "NetworkPolicy",
            "p",
            &json!({"ingress": [{"action": "Allow", "protocol": "TCP", "http": http}]}),
        )
    };
    let ignored = ("spec.ingress[0].http".to_owned(), Severity::Unsupported);
    assert_eq!(
        found(json!({"methods": ["GET"], "paths": [{"prefix": "/a"}]})),
        std::slice::from_ref(&ignored)
    );
    let twice = ("spec.ingress[0].http.methods".to_owned(), Severity::Refuse);
    assert_eq!(
        found(json!({"methods": ["GET", "GET"]})),
        [ignored.clone(), twice]
    );
    let path = ("spec.ingress[0].http.paths[0]".to_owned(), Severity::Refuse);
    assert_eq!(found(json!({"paths": [{"exact": "a"}]})), [ignored, path]);
}

#[test]
fn agent_settings_are_judged() {
    let refused = |spec, path| refused("FelixConfiguration", "default", &spec, path);
    clean(
        "FelixConfiguration",
        "default",
        &json!({"logSeverityScreen": "", "nftablesMode": "Auto", "nftablesFlowTableOffload": "Disabled",
        "failsafeInboundHostPorts": [], "routeRefreshInterval": "1.5s", "bpfEnabled": false, "vxlanPort": 4789, "natPortRange": "1024:2048"}),
    );
    refused(
        json!({"natOutgoingAddress": "fd00::1"}),
        "spec.natOutgoingAddress",
    );
    refused(json!({"nodeSelector": "all()"}), "spec.nodeSelector");
    refused(json!({"nftablesMarkMask": 15}), "spec.nftablesMarkMask");
    refused(
        json!({"failsafeOutboundHostPorts": [{"protocol": "icmp", "port": 1}]}),
        "spec.failsafeOutboundHostPorts[0]",
    );
    refused(
        json!({"externalNodesList": ["fd00::/8"]}),
        "spec.externalNodesList[0]",
    );
    refused(json!({"natPortRange": "http"}), "spec.natPortRange");
    refused(json!({"vxlanPort": "x", "ipipMTU": 1400}), "spec.vxlanPort");
    let ignored = judged(
        "FelixConfiguration",
        "default",
        &json!({"wireguardEnabled": true, "bpfEnabled": true, "bpfLogLevel": "Info"}),
    );
    assert_eq!(ignored.len(), 3);
    assert!(
        ignored
            .iter()
            .all(|(_, severity)| *severity == Severity::Unsupported)
    );
    assert_eq!(
        judged("FelixConfiguration", "mine", &json!({})),
        [("metadata.name".to_owned(), Severity::Refuse)]
    );
    assert_eq!(
        judged(
            "FelixConfiguration",
            "mine",
            &json!({"nodeSelector": "has(x)"})
        ),
        []
    );
}

#[test]
fn messages_say_what_to_write() {
    let found = validate_object(
        "NetworkPolicy",
        &object("NetworkPolicy", "p", &json!({"selector": "app == backend"})),
    );
    let messages: Vec<&str> = found.iter().map(|f| f.message.as_str()).collect();
    assert_eq!(
        messages,
        ["selector \"app == backend\": a value needs quotes, write app == 'backend'"]
    );
}

#[test]
fn one_bad_setting_costs_itself_only() {
    let spec = json!({"vxlanPort": "x", "ipipMTU": 1400, "unknown": [1]});
    let (felix, findings) = tolerant::<crate::FelixConfigurationSpec>(spec.as_object().unwrap());
    assert_eq!((felix.ipip_mtu, felix.vxlan_port), (Some(1400), None));
    assert_eq!(findings.len(), 1);
}

#[test]
fn unknown_and_broken_objects_are_no_surprise() {
    assert!(validate_object("Pod", &json!(null)).is_empty());
    for kind in [
        "IPPool",
        "BGPConfiguration",
        "NetworkPolicy",
        "FelixConfiguration",
    ] {
        for broken in [
            json!(null),
            json!([]),
            json!({}),
            json!({"metadata": 1}),
            json!({"metadata": {}, "spec": []}),
        ] {
            let found = validate_object(kind, &broken);
            assert!(
                found
                    .iter()
                    .any(|f| f.rule == UNREADABLE && f.severity == Severity::Refuse),
                "{kind} {broken}: {found:?}"
            );
        }
    }
}

#[test]
fn ignored_fields_are_sorted_and_exist() {
    let calico: Vec<&str> = include_str!("../crds/felix-fields.txt").lines().collect();
    assert!(felix::IGNORED.is_sorted());
    for field in felix::IGNORED {
        assert!(calico.contains(field), "{field}");
    }
}
