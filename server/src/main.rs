//! The command `waxwing`.
fn main() {}
