//! `waxwing health`: one request to `/ready` of a running server, without any tool that an image would need.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::Outcome;

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
    let answer = ask(arguments).with_context(|| format!("no answer on port {}", arguments.port))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(anyhow::anyhow!("not ready: HTTP {status} {}", body.trim()).into());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", body.trim())?;
    Ok(out.flush()?)
}

fn ask(arguments: &Arguments) -> anyhow::Result<String> {
    let timeout = Duration::from_secs(arguments.timeout.max(1));
    // The server may listen on all addresses or on loopback; both are reached here.
    let address = ("127.0.0.1", arguments.port)
        .to_socket_addrs()?
        .next()
        .context("no address")?;
    let mut socket = TcpStream::connect_timeout(&address, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    // A server that goes on for ever is not healthy either.
    socket.take(64 * 1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
