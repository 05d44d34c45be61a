//! The guards, kind by kind.

use serde_json::{Value, json};

use super::Guard;

/// One test of a label, or a function.
macro_rules! primary {
    () => {
        r#"(?:all\([ \t]*\)|global\([ \t]*\)|has\([ \t]*[A-Za-z0-9_./-]+[ \t]*\)|[A-Za-z0-9_./-]+(?:[ \t]*[=!]=|[ \t]+(?:contains|starts[ \t]*with|ends[ \t]*with))[ \t]*(?:'[^']*'|"[^"]*")|[A-Za-z0-9_./-]+[ \t]+(?:not[ \t]*)?in[ \t]*\{[ \t]*(?:(?:'[^']*'|"[^"]*")[ \t]*(?:,[ \t]*(?:'[^']*'|"[^"]*")[ \t]*)*,?[ \t]*)?\})"#
    };
}

/// The language of selectors without the nesting of brackets, which no regular expression can count.
pub(super) const SELECTOR: &str = concat!(
    r"^[ \t]*(?:(?:[(!][ \t]*)*",
    primary!(),
    r"[ \t]*(?:\)[ \t]*)*(?:(?:&&|\|\|)[ \t]*(?:[(!][ \t]*)*",
    primary!(),
    r"[ \t]*(?:\)[ \t]*)*)*)?$",
);

const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
const DNS_SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const POLICY_NAME: &str =
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$";
const KEY: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
const INTERFACE: &str = "^[A-Za-z0-9_.-]{1,15}$";
const PORT_NAME: &str = "^[A-Za-z0-9_.-]{1,128}$";

const UNREADABLE_SELECTOR: &str = "not a selector: values need quotes, as in app == 'backend'";
const NO_GLOBAL: &str = "global() can only be used in the namespaceSelector of a rule";
const NO_RANGE: &str = "write ranges of addresses, for instance 10.0.0.0/8";
const NO_COMMUNITY: &str =
    "write communities as aa:nn (0 to 65535 each) or aa:nn:mm (0 to 4294967295 each)";
const NO_PROTOCOL: &str = "write TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255";

/// Texts that several guards use: a pattern is written once.
pub(super) fn variables() -> Value {
    json!([
        { "name": "selector", "expression": quoted(SELECTOR) },
        { "name": "key", "expression": quoted(KEY) },
    ])
}

/// A text as CEL writes it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

/// What happens when a guard cannot be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The object passes: it may be larger than what the API server spends on it, and nodes judge it again.
    Ignore,
    /// The object is refused: failing is how a guard says that a text is no regular expression.
    Fail,
}

impl Failure {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ignore => "Ignore",
            Self::Fail => "Fail",
        }
    }
}

/// The guards of some resources.
pub(super) struct Group {
    /// Name of the admission policy.
    pub(super) name: &'static str,
    pub(super) resources: &'static [&'static str],
    pub(super) failure: Failure,
    pub(super) guards: Vec<Guard>,
}

impl Group {
    fn new(name: &'static str, resources: &'static [&'static str], guards: Vec<Guard>) -> Self {
        Self {
            name,
            resources,
            failure: Failure::Ignore,
            guards,
        }
    }

    fn strict(self) -> Self {
        Self {
            failure: Failure::Fail,
            ..self
        }
    }
}

/// All groups.
pub(super) fn all() -> Vec<Group> {
    vec![
        Group::new("margay-ippools", &["ippools"], pools()),
        Group::new(
            "margay-ipreservations",
            &["ipreservations"],
            vec![Guard::new(
                "reservedCIDRs",
                "spec.reservedCIDRs[]",
                format!("{}.all(n, isCIDR(n) || isIP(n))", list("reservedCIDRs")),
                NO_RANGE,
            )],
        ),
        Group::new(
            "margay-bgpconfigurations",
            &["bgpconfigurations"],
            bgp_configurations(),
        ),
        Group::new("margay-bgppeers", &["bgppeers"], peers()),
        Group::new("margay-bgpfilters", &["bgpfilters"], filters()),
        Group::new("margay-tiers", &["tiers"], tiers()),
        Group::new(
            "margay-networkpolicies",
            &["networkpolicies", "stagednetworkpolicies"],
            policies(true),
        ),
        Group::new(
            "margay-globalnetworkpolicies",
            &["globalnetworkpolicies", "stagedglobalnetworkpolicies"],
            policies(false),
        ),
        Group::new(
            "margay-stagedpolicies",
            &[
                "stagednetworkpolicies",
                "stagedglobalnetworkpolicies",
                "stagedkubernetesnetworkpolicies",
            ],
            staged(),
        ),
        Group::new(
            "margay-networksets",
            &["networksets", "globalnetworksets"],
            sets(),
        ),
        Group::new("margay-hostendpoints", &["hostendpoints"], hosts()),
        Group::new(
            "margay-felixconfigurations",
            &["felixconfigurations"],
            felix(),
        ),
        Group::new(
            "margay-felixconfigurations-patterns",
            &["felixconfigurations"],
            felix_patterns(),
        )
        .strict(),
        Group::new(
            "margay-kubecontrollersconfigurations",
            &["kubecontrollersconfigurations"],
            controllers(),
        ),
        Group::new(
            "margay-kubecontrollersconfigurations-patterns",
            &["kubecontrollersconfigurations"],
            vec![template(
                ".interfacePattern",
                &pattern("t.?interfacePattern.orValue('')"),
                "not a regular expression",
            )],
        )
        .strict(),
    ]
}

/// `object.spec.<field>` as a text, empty when absent.
fn text(field: &str) -> String {
    format!("object.spec.?{field}.orValue('')")
}

/// `object.spec.<field>` as a list, empty when absent.
fn list(field: &str) -> String {
    format!("object.spec.?{field}.orValue([])")
}

/// A selector in a field of `spec`.
fn selector(field: &'static str) -> [Guard; 2] {
    let value = text(field);
    let path = format!("spec.{field}");
    [
        Guard::new(
            field,
            path.as_str(),
            format!("{value}.matches(variables.selector)"),
            UNREADABLE_SELECTOR,
        ),
        Guard::new(
            field,
            path.as_str(),
            format!("!{value}.contains('global(')"),
            NO_GLOBAL,
        ),
    ]
}

/// A community, in widths too.
fn community(value: &str) -> String {
    format!(
        "({value}.matches('^[0-9]{{1,5}}:[0-9]{{1,5}}$') ? {value}.split(':').all(n, int(n) <= 65535) : {value}.matches('^[0-9]{{1,10}}:[0-9]{{1,10}}:[0-9]{{1,10}}$') && {value}.split(':').all(n, int(n) <= 4294967295))"
    )
}

/// A regular expression: asking it anything fails when it is none, and a failure is not true.
fn pattern(value: &str) -> String {
    format!("[{value}].exists_one(p, ''.matches(p) || !''.matches(p))")
}

fn password(field: &'static str) -> [Guard; 3] {
    let value = format!("object.spec.?{field}");
    let path = format!("spec.{field}");
    [
        Guard::new(
            field,
            path.as_str(),
            format!("!{value}.hasValue() || {value}.?secretKeyRef.hasValue()"),
            "a password needs secretKeyRef",
        ),
        Guard::new(
            field,
            format!("{path}.secretKeyRef.name"),
            format!(
                "!{value}.?secretKeyRef.hasValue() || {value}.?secretKeyRef.?name.orValue('') != ''"
            ),
            "name the Secret the password is in",
        ),
        Guard::new(
            field,
            format!("{path}.secretKeyRef.key"),
            format!(
                "!{value}.?secretKeyRef.hasValue() || {value}.?secretKeyRef.?key.orValue('') != ''"
            ),
            "name the key of the Secret the password is in",
        ),
    ]
}

fn pools() -> Vec<Guard> {
    [selector("nodeSelector"), selector("namespaceSelector")]
        .into_iter()
        .flatten()
        .collect()
}

fn bgp_configurations() -> Vec<Guard> {
    let mut guards = vec![
        Guard::new(
            "communities",
            "spec.communities[].name",
            format!("{}.all(c, c.?name.orValue('') != '')", list("communities")),
            "a community needs a name",
        ),
        Guard::new(
            "communities",
            "spec.communities[].value",
            format!(
                "{}.all(c, c.?value.orValue('') != '' && {})",
                list("communities"),
                community("c.value")
            ),
            NO_COMMUNITY,
        ),
        Guard::new(
            "prefixAdvertisements",
            "spec.prefixAdvertisements[].cidr",
            format!(
                "{}.all(a, a.?cidr.orValue('') != '')",
                list("prefixAdvertisements")
            ),
            NO_RANGE,
        ),
        Guard::new(
            "prefixAdvertisements",
            "spec.prefixAdvertisements[].communities[]",
            format!(
                "{}.all(a, a.?communities.orValue([]).all(t, t.contains(':') ? {} : object.metadata.name.startsWith('node.') || {}.exists(c, c.?name.orValue('') == t)))",
                list("prefixAdvertisements"),
                community("t"),
                list("communities"),
            ),
            "write communities, or names that spec.communities defines",
        ),
        Guard::new(
            "ignoredInterfaces",
            "spec.ignoredInterfaces[]",
            format!(
                "{}.all(i, i != '*' && i.matches('^[A-Za-z0-9_.*-]{{1,15}}$'))",
                list("ignoredInterfaces")
            ),
            "write names of interfaces, at most 15 of letters, digits, _, ., - and * as wildcard, not * alone",
        ),
    ];
    for field in [
        "serviceClusterIPs",
        "serviceExternalIPs",
        "serviceLoadBalancerIPs",
    ] {
        guards.push(Guard::new(
            field,
            format!("spec.{field}[].cidr"),
            format!("{}.all(r, r.?cidr.orValue('') != '')", list(field)),
            NO_RANGE,
        ));
    }
    for (field, family) in [
        ("localWorkloadPeeringIPV4", 4),
        ("localWorkloadPeeringIPV6", 6),
    ] {
        guards.push(address(field, family));
    }
    guards.extend(password("nodeMeshPassword"));
    guards
}

fn address(field: &'static str, family: u8) -> Guard {
    let value = text(field);
    Guard::new(
        field,
        format!("spec.{field}"),
        format!("{value} == '' || (isIP({value}) && ip({value}).family() == {family})"),
        "write an address of this family",
    )
}

fn peers() -> Vec<Guard> {
    let mut guards: Vec<Guard> = [
        selector("nodeSelector"),
        selector("peerSelector"),
        selector("localWorkloadSelector"),
    ]
    .into_iter()
    .flatten()
    .collect();
    guards.extend(password("password"));
    let ours = "object.spec.?margay";
    guards.extend([
        Guard::new(
            "margay",
            "spec.margay.unnumbered",
            format!("!{ours}.?unnumbered.hasValue() || ({ours}.?unnumbered.orValue('').matches({}) && {} == '')", quoted(INTERFACE), text("peerIP")),
            "name an interface, without peerIP",
        ),
        Guard::new(
            "margay",
            "spec.margay.holdTime",
            format!(
                "[duration({ours}.?holdTime.orValue('90s'))].all(t, t == duration('0s') || (t >= duration('3s') && t <= duration('65535s')))"
            ),
            "a hold time is 0s, or 3s to 65535s (RFC 4271 \u{a7}4.2)",
        ),
    ]);
    guards
}

fn filters() -> Vec<Guard> {
    let mut guards = Vec::new();
    for (field, is_v4) in [
        ("exportV4", true),
        ("importV4", true),
        ("exportV6", false),
        ("importV6", false),
    ] {
        let rules = list(field);
        let mut each = |path: &str, rule: String, message: &'static str| {
            guards.push(Guard::new(
                field,
                format!("spec.{field}[].{path}"),
                format!("{rules}.all(r, {rule})"),
                message,
            ));
        };
        let six = if is_v4 { "!" } else { "" };
        each(
            "cidr",
            format!("r.?cidr.orValue('') == '' || {six}r.cidr.contains(':')"),
            "write a range of the family of the list",
        );
        each(
            "prefixLength",
            "!r.?prefixLength.?min.hasValue() || !r.?prefixLength.?max.hasValue() || r.prefixLength.min <= r.prefixLength.max".to_owned(),
            "min must not be greater than max",
        );
        each(
            "interface",
            "r.?interface.orValue('').matches('^[A-Za-z0-9_.*-]{0,15}$')".to_owned(),
            "an interface is at most 15 of letters, digits, _, ., - and * as wildcard",
        );
        each(
            "communities.values[]",
            format!(
                "r.?communities.?values.orValue([]).all(c, {})",
                community("c")
            ),
            NO_COMMUNITY,
        );
        each(
            "operations[].addCommunity.value",
            format!(
                "r.?operations.orValue([]).all(o, !o.?addCommunity.?value.hasValue() || {})",
                community("o.addCommunity.value")
            ),
            NO_COMMUNITY,
        );
        each(
            "operations[].margay.removeCommunity.value",
            format!(
                "r.?operations.orValue([]).all(o, !o.?margay.?removeCommunity.?value.hasValue() || {})",
                community("o.margay.removeCommunity.value")
            ),
            NO_COMMUNITY,
        );
    }
    guards
}

fn tiers() -> Vec<Guard> {
    vec![Guard::new(
        "metadata",
        "metadata.name",
        format!("object.metadata.name.matches({})", quoted(DNS_LABEL)),
        "the name of a tier is at most 63 of a-z, 0-9 and -, for it must fit a label",
    )]
}

fn policies(namespaced: bool) -> Vec<Guard> {
    let reserved = if namespaced {
        "object.metadata.name.startsWith('knp.default.') || object.metadata.name.startsWith('ossg.default.') || "
    } else {
        ""
    };
    let mut guards = vec![
        Guard::new(
            "metadata",
            "metadata.name",
            format!(
                "{reserved}object.metadata.name.matches({})",
                quoted(POLICY_NAME)
            ),
            "the name of a policy is one label, or two with a dot between (tier.name)",
        ),
        Guard::new(
            "tier",
            "spec.tier",
            format!(
                "{0} == '' || {0}.matches({1})",
                text("tier"),
                quoted(DNS_LABEL)
            ),
            "cannot be the name of a tier",
        ),
    ];
    guards.extend(selector("selector"));
    guards.extend(selector("serviceAccountSelector"));
    if !namespaced {
        guards.extend(selector("namespaceSelector"));
    }
    for side in ["ingress", "egress"] {
        rules(side, &mut guards);
        for end in ["source", "destination"] {
            entity(side, end, namespaced, &mut guards);
        }
    }
    guards
}

/// A protocol of a rule, `r` being the rule.
fn protocol(field: &str) -> String {
    format!(
        "!has(r.{field}) || (type(r.{field}) == int ? r.{field} >= 1 && r.{field} <= 255 : string(r.{field}).lowerAscii() in ['tcp', 'udp', 'icmp', 'icmpv6', 'sctp', 'udplite'] || (string(r.{field}).matches('^[0-9]{{1,3}}$') && int(r.{field}) >= 1 && int(r.{field}) <= 255))"
    )
}

fn rules(side: &'static str, guards: &mut Vec<Guard>) {
    let rules = list(side);
    let mut each = |path: &str, rule: &str, message: &'static str| {
        guards.push(Guard::new(
            side,
            format!("spec.{side}[]{path}"),
            format!("{rules}.all(r, {rule})"),
            message,
        ));
    };
    each(".protocol", &protocol("protocol"), NO_PROTOCOL);
    each(".notProtocol", &protocol("notProtocol"), NO_PROTOCOL);
    let proto = "string(r.?protocol.orValue('')).lowerAscii()";
    let nets = "(r.?source.?nets.orValue([]) + r.?source.?notNets.orValue([]) + r.?destination.?nets.orValue([]) + r.?destination.?notNets.orValue([]))";
    each(
        "",
        &format!(
            "{nets}.size() == 0 || ({nets}.all(n, n.contains(':')) && r.?ipVersion.orValue(6) == 6 && !({proto} in ['icmp', '1'])) || (!{nets}.exists(n, n.contains(':')) && r.?ipVersion.orValue(4) == 4 && !({proto} in ['icmpv6', '58']))"
        ),
        "a rule is about one IP version, write one rule for IPv4 and one for IPv6",
    );
    each(
        ".metadata.annotations",
        "r.?metadata.?annotations.orValue({}).all(k, k.lowerAscii().matches(variables.key))",
        "not the key of an annotation",
    );
    if side == "egress" {
        each(
            ".http",
            "!has(r.http)",
            "HTTP can be matched in ingress rules only",
        );
    }
    each(
        ".http.methods",
        "r.?http.?methods.orValue([]).all(m, r.http.methods.exists_one(o, o == m))",
        "each method may be listed once",
    );
    each(
        ".http.paths[]",
        "r.?http.?paths.orValue([]).all(p, has(p.exact) != has(p.prefix) && (p.?exact.orValue('') + p.?prefix.orValue('')).matches('^/[^?# \\\\t]*$'))",
        "set exact or prefix: a path begins with / and holds no ?, # or blank",
    );
}

/// A port of a list: a number, a range that does not go backwards, or a name.
const PORT: &str = "(type(p) == int ? p >= 1 && p <= 65535 : string(p).matches('^[0-9]+$') ? size(p) <= 5 && int(p) >= 1 && int(p) <= 65535 : string(p).matches('^[0-9]{1,5}:[0-9]{1,5}$') ? int(p.split(':')[0]) >= 1 && int(p.split(':')[1]) <= 65535 && int(p.split(':')[0]) <= int(p.split(':')[1]) : string(p).matches('^[A-Za-z0-9_.-]{1,128}$'))";

fn entity(side: &'static str, end: &'static str, namespaced: bool, guards: &mut Vec<Guard>) {
    let rules = list(side);
    let mut each = |path: &str, rule: &str, message: &'static str| {
        guards.push(Guard::new(
            side,
            format!("spec.{side}[].{end}.{path}"),
            format!(
                "{rules}.all(r, {})",
                rule.replace("ENTITY", &format!("r.?{end}"))
            ),
            message,
        ));
    };
    for field in ["selector", "notSelector", "serviceAccounts.selector"] {
        let optional = field.replace('.', ".?");
        each(
            field,
            &format!("ENTITY.?{optional}.orValue('').matches(variables.selector)"),
            UNREADABLE_SELECTOR,
        );
        each(
            field,
            &format!("!ENTITY.?{optional}.orValue('').contains('global(')"),
            NO_GLOBAL,
        );
    }
    each(
        "namespaceSelector",
        "ENTITY.?namespaceSelector.orValue('').matches(variables.selector)",
        UNREADABLE_SELECTOR,
    );
    each(
        "namespaceSelector",
        "!ENTITY.?namespaceSelector.orValue('').contains('global(') || ENTITY.?namespaceSelector.orValue('').matches('^[ \\\\t(]*global\\\\([ \\\\t]*\\\\)[ \\\\t)]*$')",
        "global() must be the whole namespaceSelector, write two rules instead",
    );
    for field in ["nets", "notNets"] {
        each(
            &format!("{field}[]"),
            &format!("ENTITY.?{field}.orValue([]).all(n, isCIDR(n) || isIP(n))"),
            NO_RANGE,
        );
    }
    each(
        "notNets[]",
        "ENTITY.?notNets.orValue([]).all(n, !n.endsWith('/0'))",
        "excluding every address leaves nothing to match",
    );
    let carried =
        "string(r.?protocol.orValue('')).lowerAscii() in ['tcp', 'udp', 'sctp', '6', '17', '132']";
    for field in ["ports", "notPorts"] {
        each(
            &format!("{field}[]"),
            &format!("ENTITY.?{field}.orValue([]).all(p, {PORT})"),
            "a port is 1 to 65535, a range 80:90 or the name of a port",
        );
        each(
            field,
            &format!(
                "ENTITY.?{field}.orValue([]).all(p, type(p) == string && !p.matches('^[0-9:]+$') && !has(r.protocol)) || {carried}"
            ),
            "ports need protocol TCP, UDP or SCTP in the same rule, or none where all are names",
        );
    }
    if (side == "ingress") != (end == "source") {
        each(
            "services",
            "!ENTITY.?services.hasValue()",
            "services can be the source of ingress rules and the destination of egress rules only",
        );
    } else if !namespaced {
        each(
            "services.namespace",
            "!ENTITY.?services.hasValue() || ENTITY.?services.?namespace.orValue('') != ''",
            "a global policy must say which namespace the Service is in",
        );
    }
}

fn staged() -> Vec<Guard> {
    vec![Guard::new(
        "stagedAction",
        "spec.stagedAction",
        "object.spec.?stagedAction.orValue('Set') != 'Delete' || object.spec.all(f, f in ['stagedAction', 'tier'])",
        "with Delete every field but tier must be empty",
    )]
}

fn sets() -> Vec<Guard> {
    vec![
        Guard::new(
            "metadata",
            "metadata.labels",
            "!('projectcalico.org/namespace' in object.metadata.?labels.orValue({}))",
            "the label projectcalico.org/namespace is reserved: sets get that of their namespace by themselves",
        ),
        Guard::new(
            "nets",
            "spec.nets[]",
            format!("{}.all(n, isCIDR(n) || isIP(n))", list("nets")),
            NO_RANGE,
        ),
    ]
}

fn hosts() -> Vec<Guard> {
    vec![
        Guard::new(
            "interfaceName",
            "spec.interfaceName",
            format!(
                "{0} in ['', '*'] || {0}.matches({1})",
                text("interfaceName"),
                quoted(INTERFACE)
            ),
            "an interface is at most 15 of letters, digits, _, . and -, or * for all",
        ),
        Guard::new(
            "expectedIPs",
            "spec.expectedIPs[]",
            format!("{}.all(i, isIP(i))", list("expectedIPs")),
            "write addresses, for instance 192.0.2.1",
        ),
        Guard::new(
            "profiles",
            "spec.profiles[]",
            format!(
                "{}.all(p, p.matches({}))",
                list("profiles"),
                quoted(DNS_SUBDOMAIN)
            ),
            "not the name of a profile",
        ),
        Guard::new(
            "ports",
            "spec.ports[].name",
            format!(
                "{}.all(p, p.name.matches({}))",
                list("ports"),
                quoted(PORT_NAME)
            ),
            "the name of a port is 1 to 128 of letters, digits, _, . and -",
        ),
        Guard::new(
            "ports",
            "spec.ports[].protocol",
            format!(
                "{}.all(p, string(p.protocol).lowerAscii() in ['tcp', 'udp', 'sctp', '6', '17', '132'])",
                list("ports")
            ),
            "the protocol must be TCP, UDP or SCTP",
        ),
    ]
}

fn felix() -> Vec<Guard> {
    let mut guards: Vec<Guard> = selector("nodeSelector").into_iter().collect();
    guards.extend([
        Guard::new(
            "interfacePrefix",
            "spec.interfacePrefix",
            format!("{0} == '' || {0}.split(',').all(i, i.matches({1}))", text("interfacePrefix"), quoted(INTERFACE)),
            "write beginnings of names of interfaces, such as cali or cali,tap",
        ),
        Guard::new(
            "externalNodesList",
            "spec.externalNodesList[]",
            format!("{}.all(n, !n.contains(':') && (isCIDR(n) || isIP(n)))", list("externalNodesList")),
            "write IPv4 ranges, such as 192.0.2.0/24",
        ),
        Guard::new(
            "routeTableRange",
            "spec.routeTableRange",
            "!object.spec.?routeTableRange.hasValue() || (object.spec.routeTableRange.min >= 1 && object.spec.routeTableRange.min <= object.spec.routeTableRange.max && object.spec.routeTableRange.max <= 250)",
            "must be a range of route table indices within 1..250",
        ),
        Guard::new(
            "routeTableRanges",
            "spec.routeTableRanges[]",
            format!("{}.all(r, r.min >= 1 && r.min <= r.max)", list("routeTableRanges")),
            "min is at least 1 and not greater than max",
        ),
        Guard::new(
            "routeTableRanges",
            "spec.routeTableRanges",
            format!("{}.map(r, r.max - r.min + 1).sum() <= 65535", list("routeTableRanges")),
            "the ranges name more than 65535 tables together",
        ),
    ]);
    for field in ["nftablesMarkMask", "iptablesMarkMask"] {
        let bits: Vec<String> = (0..32).map(|bit| (1_u64 << bit).to_string()).collect();
        guards.push(Guard::new(
            field,
            format!("spec.{field}"),
            format!(
                "!object.spec.?{field}.hasValue() || [{}].filter(b, int(object.spec.{field}) / b % 2 == 1).size() >= 8",
                bits.join(", ")
            ),
            "a mark mask has at least 8 bits set",
        ));
    }
    for field in ["failsafeInboundHostPorts", "failsafeOutboundHostPorts"] {
        guards.push(Guard::new(
            field,
            format!("spec.{field}[]"),
            format!(
                "{}.all(p, string(p.?protocol.orValue('TCP')).lowerAscii() in ['', 'tcp', 'udp', 'sctp', '6', '17', '132'] && (p.?net.orValue('') == '' || isCIDR(p.net)))",
                list(field)
            ),
            "the protocol must be TCP, UDP or SCTP, and net a range of addresses",
        ));
    }
    guards
}

fn felix_patterns() -> Vec<Guard> {
    let fields = [
        "mtuIfacePattern",
        "logDebugFilenameRegex",
        "bpfDataIfacePattern",
        "bpfL3IfacePattern",
        "nftablesFlowTableDataIfacePattern",
    ];
    let mut guards: Vec<Guard> = fields
        .into_iter()
        .map(|field| {
            let rule = pattern(&text(field));
            Guard::new(
                field,
                format!("spec.{field}"),
                rule,
                "not a regular expression",
            )
        })
        .collect();
    guards.push(Guard::new(
        "interfaceExclude",
        "spec.interfaceExclude",
        format!(
            "{0} == '' || {0}.split(',').all(i, i.matches({1}) || (i.matches('^/.*/$') && {2}))",
            text("interfaceExclude"),
            quoted(INTERFACE),
            pattern("i")
        ),
        "write names of interfaces or /regular expressions/, with commas between them",
    ));
    guards
}

/// A guard of each template of host endpoints, `t` being the template.
fn template(field: &str, rule: &str, message: &'static str) -> Guard {
    let templates = "object.spec.?controllers.?node.?hostEndpoint.?templates.orValue([])";
    Guard::new(
        "controllers",
        format!("spec.controllers.node.hostEndpoint.templates[]{field}"),
        format!("{templates}.all(t, {rule})"),
        message,
    )
}

fn controllers() -> Vec<Guard> {
    vec![
        template(
            "",
            "t.?interfacePattern.orValue('') != '' || t.?interfaceCIDRs.orValue([]).size() > 0",
            "say which interfaces: set interfaceCIDRs or interfacePattern",
        ),
        template(
            ".interfaceCIDRs[]",
            "t.?interfaceCIDRs.orValue([]).all(n, isCIDR(n))",
            NO_RANGE,
        ),
        template(
            ".generateName",
            &format!(
                "t.?generateName.orValue('') == '' || t.generateName.matches({})",
                quoted(DNS_LABEL)
            ),
            "the part of a name is at most 63 of a-z, 0-9 and -",
        ),
        template(
            ".labels",
            "t.?labels.orValue({}).all(k, k.matches(variables.key) && t.labels[k].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$'))",
            "keys and values of labels are at most 63 of letters, digits, -, _ and .",
        ),
        template(
            ".annotations",
            "t.?annotations.orValue({}).all(k, k.lowerAscii().matches(variables.key))",
            "not the key of an annotation",
        ),
        template(
            ".nodeSelector",
            "t.?nodeSelector.orValue('').matches(variables.selector) && !t.?nodeSelector.orValue('').contains('global(')",
            UNREADABLE_SELECTOR,
        ),
    ]
}
