//! The AS path.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Asn;

/// Kind of a path segment (RFC 4271 §4.3, RFC 5065 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SegmentKind {
    /// Unordered, from aggregation.
    Set,
    /// Ordered.
    Sequence,
    /// Ordered, inside a confederation.
    ConfedSequence,
    /// Unordered, inside a confederation.
    ConfedSet,
}

impl SegmentKind {
    /// The code on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
            Self::ConfedSequence => 3,
            Self::ConfedSet => 4,
        }
    }

    /// The kind of a code.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Set),
            2 => Some(Self::Sequence),
            3 => Some(Self::ConfedSequence),
            4 => Some(Self::ConfedSet),
            _ => None,
        }
    }
}

/// One segment: at most 255 numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// Ordered or not.
    pub kind: SegmentKind,
    /// Numbers, the most recent first.
    pub asns: Vec<Asn>,
}

/// The systems a route came through, the nearest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AsPath {
    /// Segments, the most recent first.
    pub segments: Vec<Segment>,
}

impl AsPath {
    /// A path of one ordered segment; empty without numbers.
    pub fn sequence(asns: impl IntoIterator<Item = Asn>) -> Self {
        let mut path = Self::default();
        let asns: Vec<Asn> = asns.into_iter().collect();
        for chunk in asns.chunks(usize::from(u8::MAX)) {
            path.segments.push(Segment {
                kind: SegmentKind::Sequence,
                asns: chunk.to_vec(),
            });
        }
        path
    }

    /// Length as the decision counts it: a set is one, confederation segments are nothing (RFC 4271 §9.1.2.2, RFC 5065 §5.3).
    pub fn hops(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| match segment.kind {
                SegmentKind::Set => 1,
                SegmentKind::Sequence => segment.asns.len(),
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
            })
            .sum()
    }

    /// All numbers in order, sets flattened.
    pub fn asns(&self) -> impl Iterator<Item = Asn> {
        self.segments
            .iter()
            .flat_map(|segment| segment.asns.iter().copied())
    }

    /// The neighbouring system: first number of a leading sequence.
    pub fn first(&self) -> Option<Asn> {
        let segment = self.segments.first()?;
        match segment.kind {
            SegmentKind::Sequence => segment.asns.first().copied(),
            SegmentKind::Set | SegmentKind::ConfedSequence | SegmentKind::ConfedSet => None,
        }
    }

    /// Puts `asn` in front (RFC 4271 §5.1.2).
    pub fn prepend(&mut self, asn: Asn) {
        match self.segments.first_mut() {
            Some(Segment {
                kind: SegmentKind::Sequence,
                asns,
            }) if asns.len() < usize::from(u8::MAX) => {
                asns.insert(0, asn);
            }
            Some(_) | None => {
                self.segments.insert(
                    0,
                    Segment {
                        kind: SegmentKind::Sequence,
                        asns: vec![asn],
                    },
                );
            }
        }
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            let (open, close, separator) = match segment.kind {
                SegmentKind::Sequence => ("", "", " "),
                SegmentKind::Set => ("{", "}", ","),
                SegmentKind::ConfedSequence => ("(", ")", " "),
                SegmentKind::ConfedSet => ("[", "]", ","),
            };
            let numbers: Vec<String> = segment.asns.iter().map(ToString::to_string).collect();
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{open}{}{close}", numbers.join(separator))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepending_to_a_full_segment_opens_a_new_one() {
        let mut path = AsPath::sequence((0..255).map(Asn));
        path.prepend(Asn(7));
        assert_eq!(path.segments.len(), 2);
        assert_eq!(path.first(), Some(Asn(7)));
        assert_eq!(path.hops(), 256);
    }

    #[test]
    fn sets_count_one_and_print_in_braces() {
        let mut path = AsPath {
            segments: vec![Segment {
                kind: SegmentKind::Set,
                asns: vec![Asn(1), Asn(2)],
            }],
        };
        path.prepend(Asn(3));
        assert_eq!(path.hops(), 2);
        assert_eq!(path.to_string(), "3 {1,2}");
    }
}
