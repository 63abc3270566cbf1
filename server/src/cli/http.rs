//! One HTTP/1.1 exchange over a plain socket, for verbs that ask a server and must work in an image without tools.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::Context;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Longest answer that is read: a server that goes on for ever is not healthy either.
const ANSWER_BYTES: u64 = 16 << 20;

/// Sends `head` (the request line and headers without `Host`, `Content-Length` and `Connection`) and `body` to `authority` (`host:port`).
///
/// # Errors
///
/// When nobody answers within `timeout`, and when the answer is not HTTP.
pub(super) fn exchange(
    authority: &str,
    head: &str,
    body: &[u8],
    timeout: Duration,
) -> anyhow::Result<Answer> {
    let address = authority
        .to_socket_addrs()
        .with_context(|| format!("`{authority}` is no host:port"))?
        .next()
        .with_context(|| format!("`{authority}` has no address"))?;
    let mut socket = TcpStream::connect_timeout(&address, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    let length = body.len();
    write!(
        socket,
        "{head}\r\nHost: {authority}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    socket.write_all(body)?;
    let mut answer = Vec::new();
    socket.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> anyhow::Result<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split_whitespace().nth(1))
        .and_then(|status| status.parse().ok())
        .context("the answer is not HTTP")?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n{\"state\":\"full\"}\n").unwrap();
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (503, "{\"state\":\"full\"}\n")
        );
        for wrong in ["", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 soon\r\n\r\n"] {
            assert!(
                parse(wrong).unwrap_err().to_string().contains("not HTTP"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_request_says_whom_it_asks_and_how_long_its_body_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let mut read = 0;
            while !request.get(..read).unwrap().ends_with(b"four") {
                read += socket.read(request.get_mut(read..).unwrap()).unwrap();
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\nyes").unwrap();
            String::from_utf8(request.get(..read).unwrap().to_vec()).unwrap()
        });
        let answer = exchange(&authority, "POST /x HTTP/1.1", b"four", Duration::from_secs(20)).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "yes"));
        let request = server.join().unwrap();
        assert!(
            request.contains(&format!("\r\nHost: {authority}\r\n")),
            "{request}"
        );
        assert!(request.contains("\r\nContent-Length: 4\r\n"), "{request}");
    }
}
