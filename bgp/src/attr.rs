//! Path attributes: the readable form, the canonical set, and the interner that holds each set once.

mod attributes;
mod community;
mod intern;
mod path;
mod set;

pub use attributes::{Aggregator, Attributes, Origin, UnknownAttribute};
pub use community::{Community, ExtendedCommunity, LargeCommunity, ParseCommunityError};
pub use intern::{AttrId, Interner};
pub use path::{AsPath, Segment, SegmentKind};
pub use set::{AttrSet, Header, flags};
pub(crate) use set::{any_asn, has_cluster};
