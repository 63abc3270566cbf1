//! Logs go to stderr. No filter lets a library write below `info`: at `trace` they print what they send and receive,
//! and audio, text and keys are never logged.

use std::io::IsTerminal;

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging. A second call in one process changes nothing.
pub fn start(filter: &str, json: bool) {
    let targets = filter
        .parse::<Targets>()
        .unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let colour =
        std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    let layer = if json { layer.json().boxed() } else { layer.boxed() };
    let registry =
        tracing_subscriber::registry().with(layer.with_filter(targets).with_filter(filter_fn(is_discreet)));
    // Only tests start logging twice.
    let _ = registry.try_init();
}

fn is_discreet(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("waxwing") || *metadata.level() <= tracing::Level::INFO
}
