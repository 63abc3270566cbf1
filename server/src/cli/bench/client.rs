//! One paced session, with the time at which everything was sent and received.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use waxwing_frontend::resample::Resampler;

use super::Pace;

/// Rate of the recordings in memory.
pub(super) const RATE_HZ: u32 = 16_000;

/// The server and how it is spoken to.
#[derive(Debug)]
pub(super) struct Target {
    /// `ws://host:port`.
    pub(super) url: String,
    pub(super) key: Option<String>,
    pub(super) chunk: Duration,
    pub(super) pace: Pace,
}

/// How a session speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manner {
    /// Whom it asks for; `None`: the server's first model.
    pub(super) model: Option<String>,
    pub(super) rate_hz: u32,
}

impl fmt::Display for Manner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.model.as_deref().unwrap_or("default");
        write!(formatter, "{model} at {} Hz", self.rate_hz)
    }
}

/// What one session says, and how.
#[derive(Debug)]
pub(super) struct Clip {
    pub(super) samples: Arc<[i16]>,
    pub(super) manner: Manner,
}

impl Clip {
    /// Recordings of [`RATE_HZ`] as they are said in a manner.
    pub(super) fn new(samples: &[i16], manner: Manner) -> anyhow::Result<Self> {
        let mut said = samples.to_vec();
        if manner.rate_hz != RATE_HZ {
            let samples: Vec<f32> = samples
                .iter()
                .map(|&sample| f32::from(sample) / 32_768.0)
                .collect();
            let mut resampled = Vec::new();
            Resampler::new(RATE_HZ, manner.rate_hz)?.push(&samples, &mut resampled);
            said = resampled.into_iter().map(in_16_bits).collect();
        }
        Ok(Self {
            samples: said.into(),
            manner,
        })
    }
}

/// A sample of −1 to 1.
pub(super) fn in_16_bits(sample: f32) -> i16 {
    (sample.clamp(-1.0, 1.0) * 32_767.0) as i16
}

/// What one session felt.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Felt {
    /// Seconds of audio sent.
    pub(super) audio_seconds: f64,
    /// For each chunk: receipt of the first event that had taken it into account − sending of it.
    pub(super) lags: Vec<Duration>,
    /// For each word that survived: receipt of the first event that showed it − sending of the sample at its end.
    pub(super) word_delays: Vec<Duration>,
    /// Receipt of `done` − sending of `stop`.
    pub(super) final_after_end: Duration,
    /// Lags above segment + right context + 100 ms.
    pub(super) misses: usize,
    /// Words of all finals.
    pub(super) words: usize,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a session; also gives the lag that its `ready` allows.
async fn connect(target: &Target, Manner { model, rate_hz }: &Manner) -> anyhow::Result<(Socket, Duration)> {
    let mut url = format!("{}/v1/stream?encoding=s16le&sample_rate={rate_hz}", target.url);
    if let Some(model) = model {
        url = format!("{url}&model={model}");
    }
    let mut request = url.into_client_request().context("the URL is not one")?;
    if let Some(key) = &target.key {
        let value = HeaderValue::from_str(&format!("Bearer {key}")).context("the key cannot be sent")?;
        request.headers_mut().insert("authorization", value);
    }
    let (mut socket, _) = tokio_tungstenite::connect_async(request)
        .await
        .context("cannot connect")?;
    let ready = socket
        .next()
        .await
        .context("closed before `ready`")?
        .context("broken before `ready`")?;
    Ok((socket, latency_of(ready)?))
}

/// Whether the server answered that it has no room, which is no fault of it.
pub(super) fn is_refusal(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(tungstenite::Error::Http(answer)) if answer.status() == StatusCode::SERVICE_UNAVAILABLE
    )
}

/// Speaks one clip and listens until the server closes.
pub(super) async fn run(target: Arc<Target>, clip: Clip, delay: Duration) -> anyhow::Result<Felt> {
    tokio::time::sleep(delay).await;
    let (socket, allowed) = connect(&target, &clip.manner).await?;
    let (mut sink, mut source) = socket.split();
    let sending = tokio::spawn(async move {
        let mut sent = speak(&mut sink, &target, &clip).await?;
        sent.stopped = Instant::now();
        sink.send(Message::text(r#"{"type":"stop"}"#))
            .await
            .context("cannot send")?;
        anyhow::Ok((sent, sink))
    });
    let mut received = Vec::new();
    while let Some(message) = source.next().await {
        match message.context("the connection broke")? {
            Message::Text(text) => {
                received.push((
                    Instant::now(),
                    serde_json::from_str::<Value>(&text).context("an event is no JSON")?,
                ));
            }
            Message::Close(_) => break,
            _ => {}
        }
    }
    let (sent, _sink) = sending.await.context("sending panicked")??;
    feel(&sent, &received, allowed)
}

/// Speaks one clip, reads nothing, and is gone without a goodbye, as a phone in a tunnel.
pub(super) async fn vanish(target: &Target, clip: Clip) -> anyhow::Result<()> {
    let (mut socket, _) = connect(target, &clip.manner).await?;
    speak(&mut socket, target, &clip).await?;
    Ok(())
}

/// When everything was sent.
#[derive(Debug)]
struct Sent {
    /// End of the chunk in samples → when it was sent.
    chunks: BTreeMap<u64, Instant>,
    stopped: Instant,
    samples: u64,
    rate_hz: f64,
}

impl Sent {
    /// When the sample at `seconds` was sent.
    fn at(&self, seconds: f64) -> Option<Instant> {
        let sample = (seconds * self.rate_hz).ceil().max(1.0) as u64;
        self.chunks
            .range(sample.min(self.samples)..)
            .next()
            .map(|(_, sent)| *sent)
    }
}

async fn speak<S>(sink: &mut S, target: &Target, clip: &Clip) -> anyhow::Result<Sent>
where
    S: SinkExt<Message> + Unpin,
    S::Error: std::error::Error + Send + Sync + 'static,
{
    let begun = Instant::now();
    let rate_hz = f64::from(clip.manner.rate_hz);
    let chunk = (target.chunk.as_secs_f64() * rate_hz) as usize;
    let mut sent = Sent {
        chunks: BTreeMap::new(),
        stopped: begun,
        samples: clip.samples.len() as u64,
        rate_hz,
    };
    let mut spoken = 0_u64;
    for part in clip.samples.chunks(chunk.max(1)) {
        spoken += part.len() as u64;
        if target.pace == Pace::Realtime {
            // A microphone hands a chunk over when it is full.
            sleep_until(begun + Duration::from_secs_f64(spoken as f64 / rate_hz)).await;
        }
        let bytes: Vec<u8> = part.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        sent.chunks.insert(spoken, Instant::now());
        sink.send(Message::Binary(Bytes::from(bytes)))
            .await
            .context("cannot send")?;
    }
    Ok(sent)
}

fn latency_of(ready: Message) -> anyhow::Result<Duration> {
    let event: Value =
        serde_json::from_str(ready.to_text().context("`ready` is no text")?).context("`ready` is no JSON")?;
    let part = |name: &str| {
        event
            .pointer(&format!("/latency_ms/{name}"))
            .and_then(Value::as_u64)
    };
    match (part("segment"), part("right_context")) {
        (Some(segment), Some(right_context)) => Ok(Duration::from_millis(segment + right_context + 100)),
        _ => bail!("the first event is not `ready`: {event}"),
    }
}

/// Computes what the user felt from what was sent and received when.
fn feel(sent: &Sent, received: &[(Instant, Value)], allowed: Duration) -> anyhow::Result<Felt> {
    let kind = |event: &Value| {
        event
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_string()
    };
    let Some((done, _)) = received.iter().find(|(_, event)| kind(event) == "done") else {
        bail!(
            "no `done`: {}",
            received
                .last()
                .map(|(_, event)| event.to_string())
                .unwrap_or_default()
        );
    };
    let mut felt = Felt {
        audio_seconds: sent.samples as f64 / sent.rate_hz,
        final_after_end: done.saturating_duration_since(sent.stopped),
        ..Felt::default()
    };
    // Events in order of receipt, with how far they had heard; `done` has heard everything.
    let heard: Vec<(Instant, f64)> = received
        .iter()
        .filter_map(
            |(at, event)| match event.get("audio_processed").and_then(Value::as_f64) {
                Some(seconds) => Some((*at, seconds)),
                None => (kind(event) == "done").then_some((*at, f64::INFINITY)),
            },
        )
        .collect();
    let mut next = heard.iter().peekable();
    for (end, sent_at) in &sent.chunks {
        let seconds = *end as f64 / sent.rate_hz;
        while next
            .next_if(|(_, processed)| *processed + 1e-3 < seconds)
            .is_some()
        {}
        let Some((at, processed)) = next.peek() else { break };
        // The last segment is completed by `stop`, not by audio: that is the final after the end.
        if processed.is_infinite() {
            break;
        }
        let lag = at.saturating_duration_since(*sent_at);
        felt.misses += usize::from(lag > allowed);
        felt.lags.push(lag);
    }
    for (at, event) in received.iter().filter(|(_, event)| kind(event) == "final") {
        let utterance = event.get("utterance").and_then(Value::as_u64);
        let words = event
            .get("words")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        felt.words += words.len();
        for (index, word) in words.iter().enumerate() {
            let text = word.get("word").and_then(Value::as_str).unwrap_or_default();
            let shown = received
                .iter()
                .filter(|(_, event)| {
                    kind(event) == "partial" && event.get("utterance").and_then(Value::as_u64) == utterance
                })
                .find(|(_, event)| {
                    let shown = event.get("text").and_then(Value::as_str).unwrap_or_default();
                    shown.split(' ').nth(index) == Some(text)
                })
                .map_or(*at, |(shown, _)| (*shown).min(*at));
            if let Some(spoken) = word
                .get("end")
                .and_then(Value::as_f64)
                .and_then(|end| sent.at(end))
            {
                felt.word_delays.push(shown.saturating_duration_since(spoken));
            }
        }
    }
    Ok(felt)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lags_and_delays_follow_their_definitions() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let chunks = (1..=10).map(|index| (index * 1600, at(index * 100))).collect();
        let sent = Sent {
            chunks,
            stopped: at(1000),
            samples: 16_000,
            rate_hz: 16_000.0,
        };
        let received = vec![
            (
                at(600),
                json!({"type": "partial", "utterance": 0, "text": "so", "audio_processed": 0.5}),
            ),
            (
                at(950),
                json!({"type": "partial", "utterance": 0, "text": "so it", "audio_processed": 0.8}),
            ),
            (
                at(1200),
                json!({"type": "final", "utterance": 0, "text": "so is", "audio_processed": 0.8,
                "words": [{"word": "so", "end": 0.3}, {"word": "is", "end": 0.7}]}),
            ),
            (at(1300), json!({"type": "done"})),
        ];
        let felt = feel(&sent, &received, Duration::from_millis(400)).unwrap();
        let millis = |durations: &[Duration]| durations.iter().map(Duration::as_millis).collect::<Vec<_>>();
        assert_eq!(millis(&felt.lags), [500, 400, 300, 200, 100, 350, 250, 150]);
        assert_eq!(felt.misses, 1);
        assert_eq!(millis(&felt.word_delays), [300, 500]);
        assert_eq!(felt.final_after_end.as_millis(), 300);
        assert_eq!(felt.words, 2);
    }

    #[test]
    fn a_session_without_done_is_an_error_that_shows_the_last_event() {
        let now = Instant::now();
        let sent = Sent {
            chunks: BTreeMap::new(),
            stopped: now,
            samples: 0,
            rate_hz: 16_000.0,
        };
        let received = vec![(now, json!({"type": "error", "code": "engine_failed"}))];
        assert!(
            feel(&sent, &received, Duration::ZERO)
                .unwrap_err()
                .to_string()
                .contains("engine_failed")
        );
    }
}
