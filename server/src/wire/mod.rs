//! What goes over the wire: types only, no I/O.

pub mod code;
