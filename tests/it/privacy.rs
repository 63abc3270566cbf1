//! Audio, text and keys are never logged, whatever the level, whatever goes wrong.

use std::fmt::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use waxwing_tests::{Server, librivox, librivox_file};

const KEY: &str = "swordfish-7c1e0b52";
const WRONG_KEY: &str = "haddock-99aa31d4";
/// What a client might say in a message that is not understood, and put into a file that is no audio.
const CONFIDENCE: &str = "quarterly figures of the lighthouse";

#[tokio::test]
async fn at_trace_level_the_logs_hold_no_words_no_audio_and_no_key() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (out, log) = (directory.path().join("stdout"), directory.path().join("stderr"));
    let server = Server::start_logged(
        &["--log", "trace"],
        &[("RUST_LOG", "trace"), ("WAXWING_KEYS", KEY)],
        Stdio::from(std::fs::File::create(&out)?),
        Stdio::from(std::fs::File::create(&log)?),
    )
    .await?;
    let audio = librivox("0870")?;
    let heard = session(&server, &audio).await?;
    let posted = posts(&server).await?;
    failures(&server).await?;
    drop(server);

    let (out, log) = (std::fs::read_to_string(out)?, std::fs::read_to_string(log)?);
    // A log without a word on the session would prove nothing.
    ensure!(
        log.contains("session begins") && log.contains("DEBUG"),
        "no trace of the session:\n{log}"
    );
    let mut secrets = vec![KEY.to_string(), WRONG_KEY.into(), CONFIDENCE.into()];
    secrets.push(STANDARD.encode(KEY));
    secrets.push(URL_SAFE_NO_PAD.encode(KEY));
    secrets.extend(needles(&heard));
    secrets.extend(needles(&posted));
    // The beginning of a message in the middle of the speech, where no two samples are alike.
    secrets.extend(spellings(&audio[64_000..65_280]));
    ensure!(secrets.len() > 20, "hardly a word was heard: {heard}");
    for secret in &secrets {
        for (name, text) in [("stderr", &log), ("stdout", &out)] {
            ensure!(
                !text.contains(secret.as_str()),
                "{name} holds {secret:?}:\n{text}"
            );
        }
    }
    Ok(())
}

/// Speaks, flushes, is misunderstood, stops; returns what was heard.
async fn session(server: &Server, audio: &[u8]) -> Result<String> {
    let mut session = server.session_with(Some(KEY)).await?;
    for (index, chunk) in audio.chunks(6_400).enumerate() {
        session.audio(chunk).await?;
        if index == 8 {
            session.control(json!({"type": "flush", "id": "1"})).await?;
            session.control(json!({"type": CONFIDENCE})).await?;
            session
                .control(json!({"type": "flush", "id": [CONFIDENCE]}))
                .await?;
        }
    }
    let events = session.finish().await?;
    ensure!(
        events.last().is_some_and(|event| event["type"] == "done"),
        "{events:?}"
    );
    let texts = events
        .iter()
        .filter(|event| event["type"] == "final")
        .filter_map(|event| event["text"].as_str());
    Ok(texts.collect::<Vec<_>>().join(" "))
}

/// Uploads in every way that an answer is written; returns a transcript.
async fn posts(server: &Server) -> Result<String> {
    let file = librivox_file("0880")?;
    for fields in [
        [
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
        ],
        [("response_format", "srt"), ("prompt", CONFIDENCE)],
        [("stream", "true"), ("language", "en")],
    ] {
        let answer = server.post(KEY, &file, &fields).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let answer = server.post(KEY, &file, &[("response_format", "text")]).await?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer without a body")?;
    Ok(body.replace('\n', " "))
}

/// What is refused: no key and a wrong one, a file that is none, a session that is closed for its mistakes.
async fn failures(server: &Server) -> Result<()> {
    ensure!(server.session().await.is_err());
    ensure!(server.session_with(Some(WRONG_KEY)).await.is_err());
    let answer = server.post(WRONG_KEY, CONFIDENCE.as_bytes(), &[]).await?;
    ensure!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let answer = server.post(KEY, CONFIDENCE.as_bytes(), &[]).await?;
    ensure!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = server
        .post(KEY, &librivox_file("0880")?, &[("response_format", CONFIDENCE)])
        .await?;
    ensure!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut session = server.session_with(Some(KEY)).await?;
    session
        .control(json!({"type": "start", "encoding": CONFIDENCE}))
        .await?;
    let mut last = None;
    while let Some(event) = session.event().await? {
        last = Some(event);
    }
    ensure!(last.is_some_and(|event| event["code"] == "unknown_encoding"));
    Ok(())
}

/// Neighbouring words and long ones: single short words stand in any log.
fn needles(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let pairs = words
        .windows(2)
        .map(|pair| pair.join(" "))
        .filter(|pair| pair.len() > 6);
    let long = words
        .iter()
        .filter(|word| word.len() > 7)
        .map(ToString::to_string);
    pairs.chain(long).collect()
}

/// The first bytes of a message in the ways that programs print bytes and samples.
fn spellings(message: &[u8]) -> Vec<String> {
    let start = &message[..24];
    let hex = start.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    let samples: Vec<i16> = start
        .chunks_exact(2)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let list = |values: String| values.trim_matches(['[', ']']).to_string();
    vec![
        hex.to_uppercase(),
        hex,
        STANDARD.encode(start),
        URL_SAFE_NO_PAD.encode(start),
        list(format!("{start:?}")),
        list(format!("{samples:?}")),
    ]
}
