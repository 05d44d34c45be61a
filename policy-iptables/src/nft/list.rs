//! What the kernel has of our table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use netlink::attr::{self, Attribute, Attributes};
use netlink::{Errno, Error, GenerationId, Message, Socket};

use super::abi::{self, chain, data, element, rule, set, table};
use super::encode::key_datatype;
use super::image::{ChainImage, Image, RuleImage, SetImage, content_key};
use crate::ruleset::{Base, ChainKind, Content, Hook, Key, KeyType, Name, Range, TABLE, Verdict};

/// Who holds the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Anybody may change it.
    Nobody,
    /// It outlived its owner and waits for the next one.
    Orphan,
    /// The socket with this port.
    Socket(u32),
}

/// Finds our table; `None` if there is none.
pub(crate) fn find_table(socket: &mut Socket) -> Result<Option<Owner>, Error> {
    let found = socket.ask(
        abi::GET_TABLE,
        0,
        |enc| {
            enc.raw(&abi::INET);
            enc.put_str(table::NAME, TABLE);
        },
        |message| {
            let attributes = attributes(message)?;
            let flags = attributes.clone().find(table::FLAGS).and_then(|a| a.be32());
            let flags = flags.unwrap_or(0);
            let port = attributes.find(table::OWNER).and_then(|a| a.be32());
            Some(match port {
                Some(port) if flags & table::FLAG_OWNER != 0 => Owner::Socket(port),
                _ if flags & table::FLAG_PERSIST != 0 => Owner::Orphan,
                _ => Owner::Nobody,
            })
        },
    );
    match found {
        Ok(found) => Ok(found.into_iter().next()),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The current generation of all tables.
pub(crate) fn generation(socket: &mut Socket) -> Result<Option<GenerationId>, Error> {
    let found = socket.ask(
        abi::GET_GENERATION,
        0,
        |enc| enc.raw(&abi::UNSPEC),
        |message| attributes(message)?.find(abi::GEN_ID)?.be32(),
    )?;
    Ok(found.into_iter().next().map(GenerationId))
}

/// Lists chains, rules, sets and elements of our table. The table must exist.
pub(crate) fn list(socket: &mut Socket) -> Result<Image, Error> {
    let mut rules: BTreeMap<Name, Vec<RuleImage>> = BTreeMap::new();
    for (chain, _, image) in dump_rules(socket, None)? {
        rules.entry(chain).or_default().push(image);
    }
    let chains = dump_chains(socket)?
        .into_iter()
        .map(|(name, base, key)| {
            let rules = rules.remove(&name).unwrap_or_default().into();
            (name, ChainImage { base, key, rules })
        })
        .collect();
    let mut sets = BTreeMap::new();
    for header in dump_sets(socket)? {
        let elements = list_elements(socket, &header)?.into_iter().collect();
        sets.insert(header.name.clone(), header.image(elements));
    }
    Ok(Image { chains, sets })
}

/// Handles of the rules of one chain, in order, with what each is.
pub(crate) fn rule_handles(
    socket: &mut Socket,
    chain: &str,
) -> Result<Vec<(u64, RuleImage)>, Error> {
    let rules = dump_rules(socket, Some(chain))?;
    Ok(rules
        .into_iter()
        .map(|(_, handle, image)| (handle, image))
        .collect())
}

/// The attributes behind `struct nfgenmsg`.
fn attributes(message: Message<'_>) -> Option<Attributes<'_>> {
    message.body.get(4..).map(attr::parse)
}

fn text(attribute: Option<Attribute<'_>>) -> Option<Name> {
    attribute.and_then(|a| a.str()).map(Name::from)
}

fn is_ours(attributes: &Attributes<'_>, kind: u16) -> bool {
    attributes.clone().find(kind).and_then(|a| a.str()) == Some(TABLE)
}

fn dump_rules(
    socket: &mut Socket,
    chain: Option<&str>,
) -> Result<Vec<(Name, u64, RuleImage)>, Error> {
    socket.dump(
        abi::GET_RULE,
        |enc| {
            enc.raw(&abi::INET);
            enc.put_str(rule::TABLE, TABLE);
            if let Some(chain) = chain {
                enc.put_str(rule::CHAIN, chain);
            }
        },
        |message| {
            let found = attributes(message)?;
            if !is_ours(&found, rule::TABLE) {
                return None;
            }
            let name = text(found.clone().find(rule::CHAIN))?;
            if chain.is_some_and(|wanted| wanted != &*name) {
                return None;
            }
            let handle = found.clone().find(rule::HANDLE)?.be64()?;
            let key = found
                .find(rule::USERDATA)
                .and_then(|a| content_key(a.payload));
            Some((name, handle, RuleImage(key)))
        },
    )
}

type ListedChain = (Name, Option<Base>, Option<crate::ruleset::ContentKey>);

fn dump_chains(socket: &mut Socket) -> Result<Vec<ListedChain>, Error> {
    socket.dump(
        abi::GET_CHAIN,
        |enc| enc.raw(&abi::INET),
        |message| {
            let found = attributes(message)?;
            if !is_ours(&found, chain::TABLE) {
                return None;
            }
            let name = text(found.clone().find(chain::NAME))?;
            let key = found
                .clone()
                .find(chain::USERDATA)
                .and_then(|a| content_key(a.payload));
            Some((name, base(&found), key))
        },
    )
}

fn base(found: &Attributes<'_>) -> Option<Base> {
    let hook = found.clone().find(chain::HOOK)?;
    let number = hook.nested().find(chain::HOOK_NUMBER)?.be32()?;
    let priority = hook.nested().find(chain::HOOK_PRIORITY)?.be32()?;
    let kind = match found.clone().find(chain::TYPE)?.str()? {
        "nat" => ChainKind::Nat,
        _ => ChainKind::Filter,
    };
    let hook = match number {
        0 => Hook::Prerouting,
        1 => Hook::Input,
        2 => Hook::Forward,
        3 => Hook::Output,
        _ => Hook::Postrouting,
    };
    Some(Base {
        kind,
        hook,
        priority: i32::from_ne_bytes(priority.to_ne_bytes()),
    })
}

#[derive(Debug)]
struct SetHeader {
    name: Name,
    key: Option<KeyType>,
    interval: bool,
    map: bool,
    /// How many keys it holds; kernels before 6.15 do not tell.
    count: Option<u32>,
}

const KEY_TYPES: [KeyType; 9] = [
    KeyType::V4,
    KeyType::V6,
    KeyType::Port,
    KeyType::Index,
    KeyType::IndexPair,
    KeyType::IndexV4,
    KeyType::IndexV6,
    KeyType::ServiceV4,
    KeyType::ServiceV6,
];

fn dump_sets(socket: &mut Socket) -> Result<Vec<SetHeader>, Error> {
    socket.dump(
        abi::GET_SET,
        |enc| {
            enc.raw(&abi::INET);
            enc.put_str(set::TABLE, TABLE);
        },
        |message| {
            let found = attributes(message)?;
            if !is_ours(&found, set::TABLE) {
                return None;
            }
            let name = text(found.clone().find(set::NAME))?;
            let kind = found.clone().find(set::KEY_TYPE)?.be32()?;
            let flags = found.clone().find(set::FLAGS).and_then(|a| a.be32());
            let flags = flags.unwrap_or(0);
            Some(SetHeader {
                name,
                key: KEY_TYPES.into_iter().find(|key| key_datatype(*key) == kind),
                interval: flags & set::FLAG_INTERVAL != 0,
                map: flags & set::FLAG_MAP != 0,
                count: found.find(set::COUNT).and_then(|a| a.be32()),
            })
        },
    )
}

/// One element as it was listed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    key: Vec<u8>,
    flags: u32,
    verdict: Option<Verdict>,
}

/// Lists the elements of a set until the picture is whole.
///
/// A hash table that is being resized, as it is for a while after many elements came at once, lists some elements twice and others
/// not at all, without a sign. So the keys must be as many as the kernel counts, or the same twice in a row where it does not.
fn list_elements(socket: &mut Socket, header: &SetHeader) -> Result<BTreeSet<Listed>, Error> {
    let mut before = None;
    for _ in 0..LISTINGS {
        let found: BTreeSet<Listed> = dump_elements(socket, header)?.into_iter().collect();
        let keys = found
            .iter()
            .filter(|element| element.flags & element::FLAG_CATCH_ALL == 0);
        let whole = match header.count {
            _ if header.interval => true,
            Some(count) => u32::try_from(keys.count()) == Ok(count),
            None => before.as_ref() == Some(&found),
        };
        if whole {
            return Ok(found);
        }
        before = Some(found);
        std::thread::sleep(LISTING_PAUSE);
    }
    Err(Error::Interrupted { attempts: LISTINGS })
}

/// How often a set is listed before giving up, and how long the kernel is given in between to finish a resize.
const LISTINGS: u32 = 50;
const LISTING_PAUSE: Duration = Duration::from_millis(2);

fn dump_elements(socket: &mut Socket, header: &SetHeader) -> Result<Vec<Listed>, Error> {
    let lists = socket.dump(
        abi::GET_ELEMENT,
        |enc| {
            enc.raw(&abi::INET);
            enc.put_str(element::LIST_TABLE, TABLE);
            enc.put_str(element::LIST_SET, &header.name);
        },
        |message| {
            let list = attributes(message)?.find(element::LIST_ELEMENTS)?;
            Some(list.nested().map(|item| listed(&item)).collect::<Vec<_>>())
        },
    )?;
    Ok(lists.into_iter().flatten().collect())
}

fn listed(item: &Attribute<'_>) -> Listed {
    let key = item.nested().find(element::KEY);
    let key = key.and_then(|key| key.nested().find(data::VALUE));
    Listed {
        key: key.map_or_else(Vec::new, |value| value.payload.to_vec()),
        flags: item
            .nested()
            .find(element::FLAGS)
            .and_then(|a| a.be32())
            .unwrap_or(0),
        verdict: item
            .nested()
            .find(element::DATA)
            .and_then(|data| verdict(&data)),
    }
}

fn verdict(found: &Attribute<'_>) -> Option<Verdict> {
    let verdict = found.nested().find(data::VERDICT)?;
    let chain = text(verdict.nested().find(data::VERDICT_CHAIN));
    match verdict.nested().find(data::VERDICT_CODE)?.be32()? {
        data::JUMP => chain.map(Verdict::Jump),
        data::GOTO => chain.map(Verdict::Goto),
        data::DROP => Some(Verdict::Drop),
        _ => None,
    }
}

impl SetHeader {
    /// What cannot be read (a foreign type, a half range) makes the key type unknown, so that the set never equals a planned one.
    fn image(&self, elements: Vec<Listed>) -> SetImage {
        let content = self.key.and_then(|key| {
            if self.map {
                verdicts(key, elements)
            } else if self.interval {
                ranges(key, elements)
            } else {
                let keys: Option<BTreeSet<Key>> = elements
                    .iter()
                    .map(|element| read_key(key, &element.key))
                    .collect();
                keys.map(|keys| Content::Keys(Arc::new(keys)))
            }
        });
        match content {
            Some(content) => SetImage {
                key: self.key,
                content,
            },
            None => SetImage {
                key: None,
                content: Content::Keys(Arc::default()),
            },
        }
    }
}

fn verdicts(kind: KeyType, elements: Vec<Listed>) -> Option<Content> {
    let mut entries = BTreeMap::new();
    let mut otherwise = None;
    for element in elements {
        if element.flags & element::FLAG_CATCH_ALL != 0 {
            otherwise = element.verdict;
        } else {
            entries.insert(read_key(kind, &element.key)?, element.verdict?);
        }
    }
    Some(Content::Verdicts {
        entries: Arc::new(entries),
        otherwise: otherwise?,
    })
}

/// Pairs the first keys of ranges with the first keys behind them; the order of a listing is the kernel's own.
fn ranges(kind: KeyType, mut elements: Vec<Listed>) -> Option<Content> {
    elements.retain(|element| {
        // The kernel may list the end of "nothing below the first range" at key 0.
        element.flags & element::FLAG_INTERVAL_END == 0 || element.key.iter().any(|byte| *byte != 0)
    });
    elements.sort_by(|a, b| (&a.key, a.flags).cmp(&(&b.key, b.flags)));
    let mut found = BTreeSet::new();
    let mut open: Option<Vec<u8>> = None;
    for element in elements {
        let ends = element.flags & element::FLAG_INTERVAL_END != 0;
        match (open.take(), ends) {
            (None, false) => open = Some(element.key),
            (Some(first), true) => {
                found.insert(read_range(kind, &first, Some(&element.key))?);
            }
            (None, true) | (Some(_), false) => return None,
        }
    }
    if let Some(first) = open {
        found.insert(read_range(kind, &first, None)?);
    }
    Some(Content::Ranges(Arc::new(found)))
}

fn read_range(kind: KeyType, first: &[u8], behind: Option<&[u8]>) -> Option<Range> {
    let behind = behind.map(|bytes| read_key(kind, bytes));
    match (read_key(kind, first)?, behind) {
        (Key::V4(first), None) => Some(Range::V4(first, Ipv4Addr::BROADCAST)),
        (Key::V4(first), Some(Some(Key::V4(behind)))) => {
            let last = u32::from(behind).checked_sub(1)?;
            Some(Range::V4(first, Ipv4Addr::from(last)))
        }
        (Key::V6(first), None) => Some(Range::V6(first, Ipv6Addr::from(u128::MAX))),
        (Key::V6(first), Some(Some(Key::V6(behind)))) => {
            let last = u128::from(behind).checked_sub(1)?;
            Some(Range::V6(first, Ipv6Addr::from(last)))
        }
        (Key::Port(first), None) => Some(Range::Port(first, u16::MAX)),
        (Key::Port(first), Some(Some(Key::Port(behind)))) => {
            Some(Range::Port(first, behind.checked_sub(1)?))
        }
        _ => None,
    }
}

fn read_key(kind: KeyType, bytes: &[u8]) -> Option<Key> {
    let mut rest = bytes;
    let key = match kind {
        KeyType::V4 => Key::V4(v4(&mut rest)?),
        KeyType::V6 => Key::V6(v6(&mut rest)?),
        KeyType::Port => Key::Port(u16::from_be_bytes(take(&mut rest)?)),
        KeyType::Index => Key::Index(index(&mut rest)?),
        KeyType::IndexPair => Key::IndexPair(index(&mut rest)?, index(&mut rest)?),
        KeyType::IndexV4 => Key::IndexV4(index(&mut rest)?, v4(&mut rest)?),
        KeyType::IndexV6 => Key::IndexV6(index(&mut rest)?, v6(&mut rest)?),
        KeyType::ServiceV4 => {
            let address = v4(&mut rest)?;
            let (protocol, port) = service(&mut rest)?;
            Key::ServiceV4(address, protocol, port)
        }
        KeyType::ServiceV6 => {
            let address = v6(&mut rest)?;
            let (protocol, port) = service(&mut rest)?;
            Key::ServiceV6(address, protocol, port)
        }
    };
    Some(key)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

fn v4(rest: &mut &[u8]) -> Option<Ipv4Addr> {
    take::<4>(rest).map(Ipv4Addr::from)
}

fn v6(rest: &mut &[u8]) -> Option<Ipv6Addr> {
    take::<16>(rest).map(Ipv6Addr::from)
}

fn index(rest: &mut &[u8]) -> Option<u32> {
    take(rest).map(u32::from_ne_bytes)
}

fn service(rest: &mut &[u8]) -> Option<(u8, u16)> {
    let [protocol, _, _, _] = take(rest)?;
    let [high, low, _, _] = take(rest)?;
    Some((protocol, u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::encode;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Key> {
        (
            any::<u32>(),
            any::<u32>(),
            any::<u128>(),
            any::<u8>(),
            any::<u16>(),
            0..9u8,
        )
            .prop_map(|(a, b, wide, protocol, port, kind)| {
                let (v4, v6) = (Ipv4Addr::from(a), Ipv6Addr::from(wide));
                match kind {
                    0 => Key::V4(v4),
                    1 => Key::V6(v6),
                    2 => Key::Port(port),
                    3 => Key::Index(a),
                    4 => Key::IndexPair(a, b),
                    5 => Key::IndexV4(b, v4),
                    6 => Key::IndexV6(b, v6),
                    7 => Key::ServiceV4(v4, protocol, port),
                    _ => Key::ServiceV6(v6, protocol, port),
                }
            })
    }

    proptest! {
        #[test]
        fn a_key_written_is_read_back(key in any_key()) {
            let bytes = encode::key(&key);
            prop_assert_eq!(bytes.len(), encode::key_length(key.key_type()) as usize);
            prop_assert_eq!(read_key(key.key_type(), &bytes), Some(key));
        }

        #[test]
        fn garbage_is_no_key_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            for kind in KEY_TYPES {
                let _ = read_key(kind, &bytes);
            }
        }
    }

    #[test]
    fn each_key_type_has_a_number_of_its_own() {
        let numbers: BTreeSet<u32> = KEY_TYPES.into_iter().map(key_datatype).collect();
        assert_eq!(numbers.len(), KEY_TYPES.len());
    }
}
