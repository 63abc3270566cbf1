//! Support for tests of the real binary.
