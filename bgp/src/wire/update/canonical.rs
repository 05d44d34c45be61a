//! From the spans of an UPDATE to the canonical octets of its attributes.

use super::parse::Update;
use crate::attr::{AsPath, SegmentKind};
use crate::wire::Reader;
use crate::wire::attribute::{self, AsnWidth, code, flag};

impl Update<'_> {
    /// Appends the attributes in canonical form, without next hop and multiprotocol attributes.
    pub fn put_canonical(&self, out: &mut Vec<u8>) {
        let mut unknown = self.spans.unknown.clone();
        if let Some(value) = self.spans.get(code::IPV6_EXTENDED_COMMUNITIES) {
            unknown.push((code::IPV6_EXTENDED_COMMUNITIES, value));
        }
        if let Some(value) = self.spans.get(code::ONLY_TO_CUSTOMER) {
            unknown.push((code::ONLY_TO_CUSTOMER, value));
        }
        unknown.sort_unstable_by_key(|(code, _)| *code);
        let mut unknown = unknown.into_iter().peekable();
        let mut sorted = Vec::new();
        for code in CARRIED {
            while let Some((code, value)) = unknown.next_if(|(unknown, _)| *unknown < code) {
                put_passed_on(out, code, value);
            }
            let Some(value) = self.spans.get(code) else {
                continue;
            };
            sorted.clear();
            let value = self.canonical_value(code, value, &mut sorted);
            attribute::put(
                out,
                attribute::expected_flags(code).unwrap_or_default(),
                code,
                value,
            );
        }
        for (code, value) in unknown {
            put_passed_on(out, code, value);
        }
    }

    /// The value itself, or a rewritten one in `scratch`.
    fn canonical_value<'v>(
        &'v self,
        code: u8,
        value: &'v [u8],
        scratch: &'v mut Vec<u8>,
    ) -> &'v [u8] {
        match (code, self.width) {
            (code::AS_PATH, AsnWidth::Two) => {
                attribute::put_as_path(scratch, &self.merged_path(value), AsnWidth::Four);
                scratch
            }
            (code::AGGREGATOR, AsnWidth::Two) => {
                self.put_merged_aggregator(value, scratch);
                scratch
            }
            (code::COMMUNITIES, _) => ascending::<4>(value, scratch),
            (code::EXTENDED_COMMUNITIES, _) => ascending::<8>(value, scratch),
            (code::LARGE_COMMUNITIES, _) => ascending::<12>(value, scratch),
            _ => value,
        }
    }

    /// `AS_PATH` of a 2-octet peer with the numbers of `AS4_PATH` put back (RFC 6793 §4.2.3).
    fn merged_path(&self, value: &[u8]) -> AsPath {
        let path = attribute::parse_as_path(value, AsnWidth::Two).unwrap_or_default();
        let replaced_by_aggregator = self
            .spans
            .get(code::AGGREGATOR)
            .and_then(|value| Reader::new(value).u16());
        let aggregator_kept =
            replaced_by_aggregator.is_some_and(|asn| u32::from(asn) != crate::Asn::TRANS.0);
        let Some(four) = self.spans.get(code::AS4_PATH).filter(|_| !aggregator_kept) else {
            return path;
        };
        let mut four = attribute::parse_as_path(four, AsnWidth::Four).unwrap_or_default();
        four.segments
            .retain(|segment| matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set));
        if four.hops() > path.hops() {
            return path;
        }
        let lead = path.hops() - four.hops();
        let leading: Vec<_> = path.asns().take(lead).collect();
        for asn in leading.into_iter().rev() {
            four.prepend(asn);
        }
        four
    }

    fn put_merged_aggregator(&self, value: &[u8], out: &mut Vec<u8>) {
        let Some(aggregator) = attribute::parse_aggregator(value, AsnWidth::Two) else {
            return;
        };
        let four = self
            .spans
            .get(code::AS4_AGGREGATOR)
            .filter(|_| aggregator.asn == crate::Asn::TRANS);
        if let Some(four) = four {
            out.extend_from_slice(four);
        } else {
            out.extend_from_slice(&aggregator.asn.0.to_be_bytes());
            out.extend_from_slice(&aggregator.address.octets());
        }
    }
}

/// Known types that are carried on, ascending.
const CARRIED: [u8; 11] = [
    code::ORIGIN,
    code::AS_PATH,
    code::MED,
    code::LOCAL_PREF,
    code::ATOMIC_AGGREGATE,
    code::AGGREGATOR,
    code::COMMUNITIES,
    code::ORIGINATOR_ID,
    code::CLUSTER_LIST,
    code::EXTENDED_COMMUNITIES,
    code::LARGE_COMMUNITIES,
];

fn put_passed_on(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    attribute::put(
        out,
        flag::OPTIONAL | flag::TRANSITIVE | flag::PARTIAL,
        code,
        value,
    );
}

/// The values of `N` octets each, ascending and single; the input itself when it is so already.
fn ascending<'v, const N: usize>(value: &'v [u8], scratch: &'v mut Vec<u8>) -> &'v [u8] {
    let (items, _) = value.as_chunks::<N>();
    if items.is_sorted_by(|a, b| a < b) {
        return value;
    }
    let mut sorted = items.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    scratch.extend(sorted.iter().flatten());
    scratch
}
