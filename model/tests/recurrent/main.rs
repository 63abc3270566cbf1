//! The recurrent systems against what their originals compute (`tests/golden/`), and served live.

mod convert;
mod csr;
mod live;
mod skim;
mod speechbrain;
mod support;
