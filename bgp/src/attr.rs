//! Path attributes: the readable form, the canonical set, and the interner that holds each set once.

mod attributes;
mod community;
mod path;

pub use attributes::{Aggregator, Attributes, Origin, UnknownAttribute};
pub use community::{Community, ExtendedCommunity, LargeCommunity, ParseCommunityError};
pub use path::{AsPath, Segment, SegmentKind};
