//! A ruleset as text, in the words of `nft list` as far as they go: for snapshots, `explain` and reports.

use std::fmt::{Display, Formatter, Result, Write};

use super::{
    Action, Base, Chain, ChainKind, Content, Family, Field, Hook, Interface, Key, Locality, Match,
    Range, Rule, Ruleset, Sense, Set, Side, States, Verdict,
};

/// Elements of one set that are written out; a listing of thousands helps nobody.
const SHOWN: usize = 8;

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (name, set) in &self.sets {
            writeln!(f, "set {name} {set}")?;
        }
        for (name, chain) in &self.chains {
            writeln!(f, "chain {name} {chain}")?;
        }
        Ok(())
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut elements: Vec<String> = match &self.content {
            Content::Keys(keys) => keys.iter().take(SHOWN).map(ToString::to_string).collect(),
            Content::Ranges(ranges) => ranges.iter().take(SHOWN).map(ToString::to_string).collect(),
            Content::Verdicts { entries, .. } => entries
                .iter()
                .take(SHOWN)
                .map(|(key, verdict)| format!("{key} : {verdict}"))
                .collect(),
        };
        if let Content::Verdicts { otherwise, .. } = &self.content {
            elements.push(format!("* : {otherwise}"));
        }
        let hidden = self.content.len().saturating_sub(elements.len());
        if hidden > 0 {
            elements.push(format!("and {hidden} more"));
        }
        write!(f, "{{ {} }} # {}", elements.join(", "), self.comment)
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.base {
            Some(base) => writeln!(f, "{{ # {base}")?,
            None => writeln!(f, "{{ # {}", self.comment)?,
        }
        for rule in &self.rules {
            writeln!(f, "  {rule}")?;
        }
        f.write_char('}')
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let kind = match self.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let hook = match self.hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        };
        write!(f, "{kind} {hook} {}", self.priority)
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let matches = self.matches.iter().map(ToString::to_string);
        let words: Vec<String> = matches
            .chain(self.actions.iter().map(ToString::to_string))
            .collect();
        f.write_str(&words.join(" "))?;
        if self.comment.is_empty() {
            return Ok(());
        }
        write!(f, " # {}", self.comment)
    }
}

/// ` ` or ` != `, as it stands between what is read and what it is held against.
fn between(sense: Sense) -> &'static str {
    match sense {
        Sense::Is => " ",
        Sense::IsNot => " != ",
    }
}

fn version(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn address(side: Side) -> &'static str {
    match side {
        Side::Source => "saddr",
        Side::Destination => "daddr",
    }
}

fn port(side: Side) -> &'static str {
    match side {
        Side::Source => "sport",
        Side::Destination => "dport",
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Family(Family::V4) => f.write_str("ipv4"),
            Self::Family(Family::V6) => f.write_str("ipv6"),
            Self::In(interface) => write!(f, "iifname {interface}"),
            Self::Out(interface) => write!(f, "oifname {interface}"),
            Self::State(States::EstablishedOrRelated) => {
                f.write_str("ct state established,related")
            }
            Self::State(States::Invalid) => f.write_str("ct state invalid"),
            Self::Protocol(sense, number) => write!(f, "l4proto{}{number}", between(*sense)),
            Self::Port(sense, side, first, last) if first == last => {
                write!(f, "{}{}{first}", port(*side), between(*sense))
            }
            Self::Port(sense, side, first, last) => {
                write!(f, "{}{}{first}-{last}", port(*side), between(*sense))
            }
            Self::Icmp(sense, kind, None) => write!(f, "icmp type{}{kind}", between(*sense)),
            Self::Icmp(sense, kind, Some(code)) => {
                write!(f, "icmp type . code{}{kind} . {code}", between(*sense))
            }
            Self::Net(sense, side, net) => write!(f, "{}{}{net}", address(*side), between(*sense)),
            Self::Lookup(sense, field, set) => write!(f, "{field}{}@{set}", between(*sense)),
            Self::Mark { mask, value } => write!(f, "mark & {mask:#x} == {value:#x}"),
            Self::FlowMark { mask, value } => write!(f, "flow mark & {mask:#x} == {value:#x}"),
            Self::Local(sense, locality) => {
                let what = match locality {
                    Locality::Destination => "daddr",
                    Locality::Source => "saddr",
                    Locality::SourceOnOutput => "saddr . oif",
                };
                write!(f, "fib {what} type{}local", between(*sense))
            }
        }
    }
}

impl Display for Interface {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Address(side, family) => write!(f, "{} {}", version(*family), address(*side)),
            Self::Port(side) => f.write_str(port(*side)),
            Self::InIndex => f.write_str("iif"),
            Self::OutIndex => f.write_str("oif"),
            Self::InOutIndex => f.write_str("iif . oif"),
            Self::InIndexSource(family) => write!(f, "iif . {} saddr", version(*family)),
            Self::Service(side, family) => {
                write!(
                    f,
                    "{} {} . l4proto . {}",
                    version(*family),
                    address(*side),
                    port(*side)
                )
            }
        }
    }
}

fn ports(ports: Option<(u16, u16)>) -> String {
    ports.map_or_else(String::new, |(first, last)| format!(" :{first}-{last}"))
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Count => f.write_str("counter"),
            Self::Log(prefix) => write!(f, "log {prefix:?}"),
            Self::NoTrack => f.write_str("notrack"),
            Self::SetMark { keep, set } => write!(f, "mark set mark & {keep:#x} | {set:#x}"),
            Self::Map(field, map) => write!(f, "{field} vmap @{map}"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject => f.write_str("reject"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Masquerade(range) => write!(f, "masquerade{}", ports(*range)),
            Self::SourceNat(address, range) => write!(f, "snat to {address}{}", ports(*range)),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Drop => f.write_str("drop"),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::V4(address) => write!(f, "{address}"),
            Self::V6(address) => write!(f, "{address}"),
            Self::Port(port) => write!(f, "{port}"),
            Self::Index(index) => write!(f, "{index}"),
            Self::IndexPair(first, second) => write!(f, "{first} . {second}"),
            Self::IndexV4(index, address) => write!(f, "{index} . {address}"),
            Self::IndexV6(index, address) => write!(f, "{index} . {address}"),
            Self::ServiceV4(address, protocol, port) => {
                write!(f, "{address} . {protocol} . {port}")
            }
            Self::ServiceV6(address, protocol, port) => {
                write!(f, "{address} . {protocol} . {port}")
            }
        }
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::V4(first, last) => write!(f, "{first}-{last}"),
            Self::V6(first, last) => write!(f, "{first}-{last}"),
            Self::Port(first, last) => write!(f, "{first}-{last}"),
        }
    }
}
