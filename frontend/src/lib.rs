//! Audio bytes to features.
