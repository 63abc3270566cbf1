//! Support for tests of the real binary: start it on a free port, speak to it, read what the kernel says of it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Debian's `pocketsphinx-testdata`: the real speech of the tests.
pub const RECORDINGS: &str = "/usr/share/pocketsphinx/test/data";

/// A running `waxwing serve` with the embedded model; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts the release binary on a free port with further arguments and waits until it is ready.
    ///
    /// # Errors
    /// When the binary is missing, exits, or is not ready within a minute.
    pub async fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_logged(arguments, &[], Stdio::null(), Stdio::null()).await
    }

    /// As [`start`](Self::start), with further variables and with what it writes going elsewhere.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_logged(
        arguments: &[&str],
        variables: &[(&str, &str)],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let binary = binary();
        let child = Command::new(&binary)
            .args(["serve", "--port", &port.to_string()])
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}: run `cargo build --release` first",
                    binary.display()
                )
            })?;
        let mut server = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.ready().await.is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("the server exited with {status}");
            }
            ensure!(
                Instant::now() < deadline,
                "the server was not ready within a minute"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(server)
    }

    /// The answer of `GET /ready`.
    ///
    /// # Errors
    /// When nobody listens or the answer is not 200 with JSON.
    pub async fn ready(&self) -> Result<Value> {
        let answer = self.get("/ready").await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "not ready: {answer}");
        let body = answer
            .split_once("\r\n\r\n")
            .context("an answer without a body")?
            .1;
        let json = body
            .find('{')
            .and_then(|at| body.rfind('}').map(|end| &body[at..=end]));
        Ok(serde_json::from_str(json.context("a body without JSON")?)?)
    }

    /// The whole answer to a `GET` of a path, head and body.
    ///
    /// # Errors
    /// When nobody listens or the answer is no text.
    pub async fn get(&self, path: &str) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Where its sockets are opened.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Sends the process a signal, such as `STOP`.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) -> Result<()> {
        let command = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &command]).status()?;
        ensure!(status.success(), "`{command}` failed");
        Ok(())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Free slots.
    ///
    /// # Errors
    /// When `/ready` does not answer.
    pub async fn free_slots(&self) -> Result<u64> {
        self.ready().await?["free"]
            .as_u64()
            .context("`free` is no number")
    }

    /// Opens a native session.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn session(&self) -> Result<Session> {
        self.session_with(None).await
    }

    /// Opens a native session with a key.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn session_with(&self, key: Option<&str>) -> Result<Session> {
        self.open("", key).await
    }

    /// Opens a native session that is set up by this query, which begins with `?`.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn session_at(&self, query: &str) -> Result<Session> {
        self.open(query, None).await
    }

    async fn open(&self, query: &str, key: Option<&str>) -> Result<Session> {
        let url = format!("ws://127.0.0.1:{}/v1/stream{query}", self.port);
        let mut request = url.into_client_request()?;
        if let Some(key) = key {
            let value = format!("Bearer {key}").parse()?;
            request.headers_mut().insert("authorization", value);
        }
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Session { socket })
    }

    /// Posts a file with further form fields to `/v1/audio/transcriptions`; the whole answer, head and body.
    ///
    /// # Errors
    /// When the connection breaks or the answer is no text.
    pub async fn post(&self, key: &str, file: &[u8], fields: &[(&str, &str)]) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut body = Vec::new();
        for (name, value) in fields {
            let part = format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend_from_slice(part.as_bytes());
        }
        body.extend_from_slice(
            b"--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n",
        );
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n--X--\r\n");
        let head = format!(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {key}\r\nContent-Type: multipart/form-data; boundary=X\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(&body).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Resident memory in KiB and open file descriptors.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resources(&self) -> Result<(u64, usize)> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(process.join("status"))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .context("no VmRSS")?;
        let kib = line.split_whitespace().nth(1).context("no figure")?.parse()?;
        Ok((kib, std::fs::read_dir(process.join("fd"))?.count()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that ends takes its server along; errors here mean that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A native session over a real socket.
#[derive(Debug)]
pub struct Session {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Session {
    /// Sends audio bytes in one message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn audio(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.send(Message::Binary(bytes.to_vec().into())).await?)
    }

    /// Sends a control message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn control(&mut self, message: Value) -> Result<()> {
        Ok(self
            .socket
            .send(Message::Text(message.to_string().into()))
            .await?)
    }

    /// The next event, or `None` after the server's Close.
    ///
    /// # Errors
    /// When the connection breaks or an event is no JSON.
    pub async fn event(&mut self) -> Result<Option<Value>> {
        while let Some(message) = self.socket.next().await {
            match message? {
                Message::Text(text) => return Ok(Some(serde_json::from_str(&text)?)),
                Message::Close(_) => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Sends `stop` and returns all events until the server closes.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn finish(mut self) -> Result<Vec<Value>> {
        self.control(serde_json::json!({"type": "stop"})).await?;
        let mut events = Vec::new();
        while let Some(event) = self.event().await? {
            events.push(event);
        }
        Ok(events)
    }
}

/// The s16le 16 kHz samples of a LibriVox clip, by the last digits of its name.
///
/// # Errors
/// When the clip is not installed.
pub fn librivox(number: &str) -> Result<Vec<u8>> {
    let file = librivox_file(number)?;
    Ok(file.get(44..).context("a wav file without samples")?.to_vec())
}

/// The whole wav file of a LibriVox clip, by the last digits of its name.
///
/// # Errors
/// When the clip is not installed.
pub fn librivox_file(number: &str) -> Result<Vec<u8>> {
    let name = format!("sense_and_sensibility_01_austen_64kb-{number}.wav");
    let path = Path::new(RECORDINGS).join("librivox").join(name);
    std::fs::read(&path).with_context(|| format!("{} is missing: tests/run installs it", path.display()))
}

/// Where the release binary is: `WAXWING_BIN`, or beside this package's own build.
pub fn binary() -> PathBuf {
    std::env::var_os("WAXWING_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/waxwing"),
        PathBuf::from,
    )
}
