//! What the proxy does to whom: rules, and the judgement of one request. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// How many requests are remembered for [`super::ApiProxy::seen`]; the oldest go first.
const REMEMBERED: usize = 20_000;

/// Whom a rule is about. Faults of the connection go by address alone: nothing else is known before the first request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Only clients with this address; `None`: all.
    pub address: Option<IpAddr>,
    /// Only this service account, as `namespace:name`; `None`: all.
    pub account: Option<String>,
}

impl Who {
    /// Every client.
    pub fn everybody() -> Self {
        Self::default()
    }

    /// Whoever connects from an address: all of a node that uses its network.
    pub fn from(address: impl Into<IpAddr>) -> Self {
        Self {
            address: Some(address.into()),
            account: None,
        }
    }

    /// The same, but this service account alone (`namespace:name`).
    #[must_use]
    pub fn as_account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    /// Whether a connection from this address is meant.
    pub fn connects(&self, address: IpAddr) -> bool {
        self.address.is_none_or(|own| own == address)
    }

    fn asks(&self, asked: &Asked) -> bool {
        self.connects(asked.address)
            && self
                .account
                .as_ref()
                .is_none_or(|own| asked.account.as_ref() == Some(own))
    }
}

/// The kinds of calls that Kubernetes' clients make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The first page of a list.
    List,
    /// A further page.
    Continue,
    /// A watch.
    Watch,
    /// One object read.
    Get,
    /// An object made.
    Create,
    /// An object replaced.
    Update,
    /// An object patched.
    Patch,
    /// An object deleted.
    Delete,
    /// Anything else: `/version`, discovery.
    Other,
}

/// One request, as far as rules look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where it comes from.
    pub address: IpAddr,
    /// The service account of its token, `namespace:name`.
    pub account: Option<String>,
    /// What it wants.
    pub call: Call,
    /// The plural name of the kind, with its subresource: `pods`, `nodes/status`. Empty for [`Call::Other`].
    pub resource: String,
    /// A hash of its token.
    pub token: Option<[u8; 32]>,
}

impl Asked {
    /// Reads method, path with query, and the `Authorization` header.
    pub fn parse(
        address: IpAddr,
        method: &str,
        path: &str,
        query: &str,
        authorization: Option<&str>,
    ) -> Self {
        let token = authorization.and_then(|text| text.strip_prefix("Bearer "));
        let (resource, named) = resource(path).unwrap_or_default();
        let has = |name: &str| {
            query
                .split('&')
                .any(|pair| pair.starts_with(name) && !pair.ends_with("=false"))
        };
        let call = match method {
            _ if resource.is_empty() => Call::Other,
            "GET" if has("watch=") => Call::Watch,
            "GET" if named => Call::Get,
            "GET" if has("continue=") => Call::Continue,
            "GET" => Call::List,
            "POST" => Call::Create,
            "PUT" => Call::Update,
            "PATCH" => Call::Patch,
            "DELETE" => Call::Delete,
            _ => Call::Other,
        };
        Self {
            address,
            account: token.and_then(account),
            call,
            resource,
            token: token.map(|token| Sha256::digest(token).into()),
        }
    }
}

/// Resource with subresource, and whether one object is named.
fn resource(path: &str) -> Option<(String, bool)> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let head = match *parts.first()? {
        "api" => 2,
        "apis" => 3,
        _ => return None,
    };
    parts = parts.split_off(head.min(parts.len()));
    // `namespaces/NAME/status` is about the namespace itself, `namespaces/NAME/pods` is not.
    if let ["namespaces", _name, inner, ..] = parts.as_slice()
        && !matches!(*inner, "status" | "finalize")
    {
        parts.drain(..2);
    }
    match parts.as_slice() {
        [] => None,
        [kind] => Some(((*kind).to_owned(), false)),
        [kind, _name] => Some(((*kind).to_owned(), true)),
        [kind, _name, sub @ ..] => Some((format!("{kind}/{}", sub.join("/")), true)),
    }
}

/// The service account a token speaks for. The token is not verified: the API server does that.
fn account(token: &str) -> Option<String> {
    let claims = token.split('.').nth(1)?;
    let claims = data_encoding::BASE64URL_NOPAD
        .decode(claims.as_bytes())
        .ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let subject = claims.get("sub")?.as_str()?;
    subject
        .strip_prefix("system:serviceaccount:")
        .map(str::to_owned)
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connections are reset, running ones too.
    Refuse,
    /// Connections stand and no byte comes, on running ones too. A connection that has met this stays mute after the fault has ended.
    BlackHole,
    /// The answer begins this much later.
    Delay(Duration),
    /// The proxy answers itself, with a Kubernetes `Status` of this code.
    Status(u16),
    /// A watch begins well and its first event is an error of this code, as an API server says it that no longer knows the version.
    WatchError(u16),
    /// Lists come in pages of at most this many objects.
    Pages(u32),
    /// Objects whose name contains this are missing in lists.
    HideFromLists(String),
    /// Events about objects whose name contains this get lost.
    DropEvents(String),
    /// A token is refused (401) this long after it was first seen.
    Expire(Duration),
}

/// A fault, whom it meets, in which calls, how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    fault: Fault,
    who: Who,
    calls: Vec<Call>,
    resource: Option<String>,
    left: Option<u32>,
}

impl Rule {
    /// This fault for everybody, in every call, until it is lifted.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            who: Who::everybody(),
            calls: Vec::new(),
            resource: None,
            left: None,
        }
    }

    /// Only for these clients.
    #[must_use]
    pub fn to(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    /// Only in these calls.
    #[must_use]
    pub fn calls(mut self, calls: &[Call]) -> Self {
        self.calls = calls.to_vec();
        self
    }

    /// Only for this kind, by its plural name.
    #[must_use]
    pub fn resource(mut self, plural: &str) -> Self {
        self.resource = Some(plural.to_owned());
        self
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.left = Some(count);
        self
    }

    /// Whom it meets.
    pub(super) fn who(&self) -> &Who {
        &self.who
    }

    /// What goes wrong.
    pub(super) fn fault(&self) -> &Fault {
        &self.fault
    }

    fn meets(&self, asked: &Asked) -> bool {
        self.left != Some(0)
            && self.who.asks(asked)
            && (self.calls.is_empty() || self.calls.contains(&asked.call))
            && self
                .resource
                .as_ref()
                .is_none_or(|own| *own == asked.resource)
    }
}

/// What is done to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Wait so long first.
    pub(super) delay: Duration,
    /// Answer at once with this code.
    pub(super) status: Option<u16>,
    /// Answer a watch with an error event of this code.
    pub(super) watch_error: Option<u16>,
    /// Ask for pages of this size.
    pub(super) page: Option<u32>,
    /// Names that are left out of lists.
    pub(super) hide: Vec<String>,
    /// Names whose events are left out.
    pub(super) lose: Vec<String>,
}

/// A request the proxy has seen, and whether it answered itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The request.
    pub asked: Asked,
    /// The code of the proxy's own answer; `None`: passed on.
    pub answered: Option<u16>,
    /// When it came.
    pub at: Instant,
}

/// The rules in force and what was seen.
#[derive(Debug, Default)]
pub(super) struct Book {
    rules: Vec<(u64, Rule)>,
    next: u64,
    tokens: HashMap<[u8; 32], Instant>,
    seen: std::collections::VecDeque<Seen>,
}

impl Book {
    /// Puts a rule into force; returns its number.
    pub(super) fn add(&mut self, rule: Rule) -> u64 {
        self.next += 1;
        self.rules.push((self.next, rule));
        self.next
    }

    /// Lifts a rule.
    pub(super) fn lift(&mut self, number: u64) {
        self.rules.retain(|(own, _)| *own != number);
    }

    /// Whether connections from an address are reset.
    pub(super) fn refuses(&self, address: IpAddr) -> bool {
        self.connection(address, &Fault::Refuse)
    }

    /// Whether connections from an address go mute.
    pub(super) fn mutes(&self, address: IpAddr) -> bool {
        self.connection(address, &Fault::BlackHole)
    }

    fn connection(&self, address: IpAddr, fault: &Fault) -> bool {
        self.rules
            .iter()
            .any(|(_, rule)| rule.fault == *fault && rule.who.connects(address))
    }

    /// Judges a request and remembers it.
    pub(super) fn judge(&mut self, asked: Asked, now: Instant) -> Verdict {
        let age = asked.token.map_or(Duration::ZERO, |token| {
            now.saturating_duration_since(*self.tokens.entry(token).or_insert(now))
        });
        let mut verdict = Verdict::default();
        for (_, rule) in &mut self.rules {
            if !rule.meets(&asked) || !apply(&rule.fault, asked.call, age, &mut verdict) {
                continue;
            }
            if let Some(left) = &mut rule.left {
                *left -= 1;
            }
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(Seen {
            asked,
            answered: verdict.status.or(verdict.watch_error),
            at: now,
        });
        verdict
    }

    /// What was seen, the oldest first.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.iter().cloned().collect()
    }
}

/// Adds a fault to the verdict on a call; false where it has nothing to do with it.
fn apply(fault: &Fault, call: Call, age: Duration, verdict: &mut Verdict) -> bool {
    match fault {
        Fault::Delay(time) => verdict.delay += *time,
        Fault::Status(code) => verdict.status = Some(*code),
        Fault::WatchError(code) if call == Call::Watch => verdict.watch_error = Some(*code),
        Fault::Pages(size) if matches!(call, Call::List | Call::Continue) => {
            verdict.page = Some(*size);
        }
        Fault::HideFromLists(name) if matches!(call, Call::List | Call::Continue) => {
            verdict.hide.push(name.clone());
        }
        Fault::DropEvents(name) if call == Call::Watch => verdict.lose.push(name.clone()),
        Fault::Expire(lifetime) if age >= *lifetime => verdict.status = Some(401),
        Fault::Refuse
        | Fault::BlackHole
        | Fault::WatchError(_)
        | Fault::Pages(_)
        | Fault::HideFromLists(_)
        | Fault::DropEvents(_)
        | Fault::Expire(_) => return false,
    }
    true
}

#[cfg(test)]
mod tests;
