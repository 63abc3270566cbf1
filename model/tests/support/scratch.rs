//! Places on the disk.

use std::path::PathBuf;

/// A directory that is gone at the end of its test.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let crate_name = env!("CARGO_CRATE_NAME");
        let path = std::env::temp_dir().join(format!("waxwing-{crate_name}-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
