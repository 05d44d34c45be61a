//! See DESIGN.md.
fn main() {}
