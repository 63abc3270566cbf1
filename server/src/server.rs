//! The accept loop: connections under a limit, headers under a timeout, and a drain that ends.
//!
//! `axum::serve` has no header timeout, so one client that sends half a request line holds a connection for ever;
//! here hyper's own timeout closes it. Two phases end the server: *draining* (no new work, sessions say their last
//! words) and *closing* (no new connections, open ones finish their request).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::limits;

/// Bytes of the kernel's buffers for one connection: small ones make a slow peer felt after seconds, not minutes.
const SOCKET_BUFFER_BYTES: usize = 64 * 1024;
/// Longest pause after a failed accept, when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Binds the listener with small buffers that its connections inherit.
///
/// # Errors
/// When the address is taken or not ours; the message names the way out.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        // A restarted server takes over its port at once.
        socket.set_reuseaddr(true)?;
        let bytes = u32::try_from(SOCKET_BUFFER_BYTES).unwrap_or(u32::MAX);
        socket.set_recv_buffer_size(bytes)?;
        socket.set_send_buffer_size(bytes)?;
        socket.bind(address)?;
        socket.listen(1024)
    };
    open().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {} of {} is taken by another program\n\nhint: choose another with `--port {}`, or any free one with `--port 0`",
            address.port(),
            address.ip(),
            address.port().checked_add(1).unwrap_or(8080),
        ),
        io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "port {} needs privileges that this process lacks\n\nhint: choose one above 1023 with `--port 8080`",
            address.port(),
        ),
        io::ErrorKind::AddrNotAvailable => anyhow::anyhow!(
            "{} is no address of this machine\n\nhint: `--host 127.0.0.1` for this machine only, `--host 0.0.0.0` for all networks",
            address.ip(),
        ),
        _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    })
}

/// Serves until `closing` is cancelled; returns when the last connection is gone. The caller bounds that wait.
pub async fn run(listener: TcpListener, app: Router, connections: usize, closing: CancellationToken) {
    let permits = Arc::new(Semaphore::new(connections));
    let tracker = TaskTracker::new();
    loop {
        // The permit comes first, so that the surplus waits in the kernel's queue and costs nothing here.
        let accepted = tokio::select! {
            accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (listener.accept().await, permit)
            } => accepted,
            () = closing.cancelled() => break,
        };
        match accepted {
            (Ok((socket, peer)), Ok(permit)) => {
                // Events are small and must leave at once.
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "connection is gone");
                    continue;
                }
                let (app, closing) = (app.clone(), closing.clone());
                tracker.spawn(async move {
                    serve_connection(socket, app, closing).await;
                    drop(permit);
                });
            }
            (Err(error), _) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (_, Err(_)) => break,
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

/// Serves one connection to its end; a closing server lets the open request finish.
async fn serve_connection<S>(socket: S, app: Router, closing: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIMEOUT)
        .max_buf_size(limits::HEADER_BYTES);
    let service = TowerToHyperService::new(
        app.map_request(|request: Request<hyper::body::Incoming>| request.map(Body::new)),
    );
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    fn app() -> Router {
        Router::new().route("/", get(|| async { "hello" }))
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_header_does_not_hold_a_connection() {
        let (mut client, server) = tokio::io::duplex(1024);
        let begun = Instant::now();
        let serving = tokio::spawn(serve_connection(server, app(), CancellationToken::new()));
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ")
            .await
            .unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        serving.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), limits::HEADER_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_above_the_limit_is_refused() {
        let (mut client, server) = tokio::io::duplex(1024);
        let serving = tokio::spawn(serve_connection(server, app(), CancellationToken::new()));
        let head = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nX-A: {}\r\n\r\n",
            "a".repeat(limits::HEADER_BYTES)
        );
        // The server may hang up before all of it is written.
        let _ = client.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        serving.await.unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 431"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_closing_server_answers_the_open_request_and_ends() {
        let (mut client, server) = tokio::io::duplex(1024);
        let closing = CancellationToken::new();
        let (asked, when_asked) = tokio::sync::oneshot::channel::<()>();
        let asked = std::sync::Mutex::new(Some(asked));
        let slow = move || {
            if let Some(asked) = asked.lock().unwrap().take() {
                asked.send(()).unwrap();
            }
            async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                "late"
            }
        };
        let slow = Arc::new(slow);
        let app = Router::new().route("/", get(move || slow()));
        let serving = tokio::spawn(serve_connection(server, app, closing.clone()));
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        when_asked.await.unwrap();
        closing.cancel();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        serving.await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("late"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_taken_port_names_the_way_out() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.local_addr().unwrap();
        let error = bind(taken).unwrap_err().to_string();
        assert!(
            error.contains("is taken") && error.contains("--port 0"),
            "{error}"
        );
    }
}
