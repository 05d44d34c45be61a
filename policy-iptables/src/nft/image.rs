//! A ruleset as it is compared with the kernel's.

use std::collections::BTreeMap;
use std::sync::Arc;

use netlink::attr::Encoder;
use sha2::{Digest, Sha256};

use super::abi::userdata;
use super::encode;
use crate::ruleset::{Base, Chain, Content, ContentKey, KeyType, Name, Rule, Ruleset, Set};

/// Changes with the encoding of expressions, so that a new version of the daemon replaces rules whose bytes differ.
const ENCODING: &[u8] = b"margay rule 1\0";

/// Longest comment `nft` prints.
const COMMENT_OCTETS: usize = 120;

/// A ruleset as it is compared: what was planned, or what the kernel listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Chains by name.
    pub chains: BTreeMap<Name, ChainImage>,
    /// Sets by name; comments do not count.
    pub sets: BTreeMap<Name, SetImage>,
}

/// A chain as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainImage {
    /// Where it hangs.
    pub base: Option<Base>,
    /// What it stands for, if its name carries an id.
    pub key: Option<ContentKey>,
    /// Its rules in order.
    pub rules: Arc<[RuleImage]>,
}

/// A rule by the hash of its expressions; `None` for a rule of the kernel that we did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleImage(pub Option<ContentKey>);

/// A set as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetImage {
    /// Type of its keys; `None` for a type we do not write.
    pub key: Option<KeyType>,
    /// Its elements.
    pub content: Content,
}

impl Image {
    /// Image of a planned ruleset. Chains that `before` holds unchanged are not hashed again.
    pub fn of(ruleset: &Ruleset, before: Option<(&Ruleset, &Self)>) -> Self {
        let chains = ruleset
            .chains
            .iter()
            .map(|(name, chain)| {
                let known = before.and_then(|(old, image)| {
                    let same = old.chains.get(name) == Some(chain);
                    image.chains.get(name).filter(|_| same).cloned()
                });
                (name.clone(), known.unwrap_or_else(|| ChainImage::of(chain)))
            })
            .collect();
        let sets = ruleset
            .sets
            .iter()
            .map(|(name, set)| (name.clone(), SetImage::of(set)))
            .collect();
        Self { chains, sets }
    }
}

impl ChainImage {
    fn of(chain: &Chain) -> Self {
        let rules = chain
            .rules
            .iter()
            .map(|rule| RuleImage(Some(rule_key(rule))));
        Self {
            base: chain.base,
            key: chain.key,
            rules: rules.collect(),
        }
    }
}

impl SetImage {
    fn of(set: &Set) -> Self {
        Self {
            key: Some(set.key),
            content: set.content.clone(),
        }
    }
}

/// Hash over what the kernel will hold of a rule.
fn rule_key(rule: &Rule) -> ContentKey {
    let mut hash = Sha256::new();
    hash.update(ENCODING);
    hash.update(encode::rule(rule));
    hash.update(comment(&rule.comment));
    truncate(hash)
}

fn truncate(hash: Sha256) -> ContentKey {
    let digest: [u8; 32] = hash.finalize().into();
    let mut key = [0; 16];
    for (slot, byte) in key.iter_mut().zip(digest) {
        *slot = byte;
    }
    ContentKey(key)
}

/// Userdata of a rule: comment for `nft`, hash for us.
pub(super) fn rule_userdata(rule: &Rule) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_text(&mut bytes, userdata::RULE_COMMENT, &rule.comment);
    put(&mut bytes, userdata::CONTENT_KEY, &rule_key(rule).0);
    bytes
}

/// Userdata of a chain.
pub(super) fn chain_userdata(chain: &Chain) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_text(&mut bytes, userdata::CHAIN_COMMENT, &chain.comment);
    if let Some(key) = chain.key {
        put(&mut bytes, userdata::CONTENT_KEY, &key.0);
    }
    bytes
}

/// Userdata of a set. Without the byte order `nft` would print host-order numbers swapped.
pub(super) fn set_userdata(set: &Set) -> Vec<u8> {
    let order = match set.key {
        KeyType::Index => userdata::HOST_ORDER,
        KeyType::V4 | KeyType::V6 | KeyType::Port => userdata::NETWORK_ORDER,
        // A concatenation has no order of its own, its fields have.
        KeyType::IndexPair
        | KeyType::IndexV4
        | KeyType::IndexV6
        | KeyType::ServiceV4
        | KeyType::ServiceV6 => 0,
    };
    let mut bytes = Vec::new();
    put(
        &mut bytes,
        userdata::SET_KEY_BYTE_ORDER,
        &order.to_ne_bytes(),
    );
    put_text(&mut bytes, userdata::SET_COMMENT, &set.comment);
    bytes
}

/// The content key among userdata, if there is one.
pub(super) fn content_key(mut bytes: &[u8]) -> Option<ContentKey> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == userdata::CONTENT_KEY {
            return value.try_into().ok().map(ContentKey);
        }
        bytes = rest.get(usize::from(*length)..)?;
    }
    None
}

fn put_text(bytes: &mut Vec<u8>, kind: u8, text: &str) {
    let mut text = comment(text);
    if text.is_empty() {
        return;
    }
    text.push(0);
    put(bytes, kind, &text);
}

/// Text as `nft` can print and read it: printable ASCII without quotes, of limited length.
fn comment(text: &str) -> Vec<u8> {
    text.bytes()
        .map(|byte| match byte {
            b'"' => b'\'',
            b' '..=b'~' => byte,
            _ => b'?',
        })
        .take(COMMENT_OCTETS)
        .collect()
}

fn put(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // Longest value: a comment with its zero, far below an octet's range.
    let Ok(length) = u8::try_from(value.len()) else {
        return;
    };
    bytes.extend([kind, length]);
    bytes.extend_from_slice(value);
}

/// Writes an attribute unless it is empty.
pub(super) fn put_userdata(enc: &mut Encoder, kind: u16, bytes: &[u8]) {
    if !bytes.is_empty() {
        enc.put(kind, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Action, Match, Sense};

    #[test]
    fn a_key_is_found_behind_a_comment() {
        let rule = Rule::new("tier \"a\"\n").then(Action::Drop);
        let bytes = rule_userdata(&rule);
        assert_eq!(content_key(&bytes), Some(rule_key(&rule)));
        assert!(bytes.windows(10).any(|part| part == b"tier 'a'?\0"));
    }

    #[test]
    fn truncated_userdata_has_no_key() {
        assert_eq!(content_key(&[]), None);
        assert_eq!(content_key(&[userdata::CONTENT_KEY, 16, 1, 2]), None);
        assert_eq!(content_key(&[0, 200, 1]), None);
    }

    #[test]
    fn rules_that_differ_have_different_keys() {
        let drop = Rule::new("").then(Action::Drop);
        let tcp = Rule::new("")
            .when(Match::Protocol(Sense::Is, 6))
            .then(Action::Drop);
        assert_ne!(rule_key(&drop), rule_key(&tcp));
    }
}
