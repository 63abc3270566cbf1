//! `waxwing health`: one request to `/ready` of a running server, without any tool that an image would need.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::{Outcome, http};

/// Ask a running server whether it is ready: exit 0 or 1, for HEALTHCHECK
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Port of the server on this machine
    #[arg(long, env = "WAXWING_PORT", default_value_t = 8080)]
    port: u16,
    /// Longest wait for the answer, in seconds
    #[arg(long, default_value_t = 2)]
    timeout: u64,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    // The server may listen on all addresses or on loopback; both are reached here.
    let answer = http::exchange(
        &format!("127.0.0.1:{}", arguments.port),
        "GET /ready HTTP/1.1",
        &[],
        Duration::from_secs(arguments.timeout.max(1)),
    )
    .with_context(|| format!("no answer on port {}", arguments.port))?;
    if answer.status != 200 {
        return Err(anyhow::anyhow!("not ready: HTTP {} {}", answer.status, answer.body.trim()).into());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", answer.body.trim())?;
    Ok(out.flush()?)
}
