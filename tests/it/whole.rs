//! A model that cannot stream, served by the real binary beside one that does.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use waxwing_tests::{Server, binary, librivox, librivox_file};

const MELS: usize = 80;
const HIDDEN: usize = 8;
const TOKENS: &str = "<blank>\n▁a\nb\n▁c\nd\n";

/// Writes the directory of a small bidirectional GRU with weights that look random and are the same in every run.
fn write_model(directory: &Path) -> Result<()> {
    let config = json!({
        "format": 1, "id": "recorder", "architecture": "recurrent", "sample_rate": 16_000,
        "features": {"type": "streaming_log_mel"},
        "encoder": {"cell": "gru", "input_size": MELS, "hidden_size": HIDDEN, "bidirectional": true},
        "ctc": {"blank": 0},
    });
    std::fs::write(directory.join("config.json"), config.to_string())?;
    std::fs::write(directory.join("tokens.txt"), TOKENS)?;
    let mut shapes = vec![
        (
            "head.weight".to_string(),
            vec![TOKENS.lines().count(), 2 * HIDDEN],
        ),
        ("head.bias".into(), vec![TOKENS.lines().count()]),
    ];
    for direction in ["", "_reverse"] {
        shapes.push((format!("rnn.weight_ih_l0{direction}"), vec![3 * HIDDEN, MELS]));
        shapes.push((format!("rnn.weight_hh_l0{direction}"), vec![3 * HIDDEN, HIDDEN]));
        shapes.push((format!("rnn.bias_ih_l0{direction}"), vec![3 * HIDDEN]));
        shapes.push((format!("rnn.bias_hh_l0{direction}"), vec![3 * HIDDEN]));
    }
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for (name, shape) in shapes {
        let begin = data.len();
        // A head that is sure of itself.
        let scale = if name == "head.weight" { 8.0 } else { 1.0 };
        for _ in 0..shape.iter().product() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let value = (random >> 40) as f32 / (1 << 23) as f32 - 1.0;
            data.extend((scale * value).to_le_bytes());
        }
        let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]});
        header.insert(name, tensor);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    Ok(std::fs::write(directory.join("model.safetensors"), file)?)
}

/// The words of a session that has heard all of this.
async fn spoken(server: &Server, audio: &[u8]) -> Result<String> {
    let mut session = server.session().await?;
    for chunk in audio.chunks(16_000) {
        session.audio(chunk).await?;
    }
    let events = session.finish().await?;
    let finals = events.iter().filter(|event| event["type"] == "final");
    Ok(finals
        .filter_map(|event| event["text"].as_str())
        .collect::<Vec<_>>()
        .join(" "))
}

fn body(answer: &str) -> Result<&str> {
    Ok(answer
        .split_once("\r\n\r\n")
        .context("an answer without a body")?
        .1)
}

#[tokio::test]
async fn it_takes_files_beside_a_model_that_streams_and_refuses_speech_with_the_reason() -> Result<()> {
    let directory = tempfile::tempdir()?;
    write_model(directory.path())?;
    let recorder = directory.path().display().to_string();
    let models = format!("en-emformer,{recorder}");
    let server = Server::start(&["--model", &models, "--max-whole-seconds", "6", "--threads", "1"]).await?;

    // Refused before the upgrade, and said in advance.
    let refused = server.session_at("?model=recorder").await;
    let Err(error) = refused else {
        anyhow::bail!("a model that cannot stream was spoken to")
    };
    ensure!(error.to_string().contains("400"), "{error}");
    let models = server.get("/v1/models").await?;
    let models: Value = serde_json::from_str(body(&models)?)?;
    ensure!(models["data"][0]["streaming"] == true, "{models}");
    ensure!(
        models["data"][1]["streaming"] == false && models["data"][1]["max_file_seconds"] == 6,
        "{models}"
    );

    // Both at once: speech hears what it hears alone.
    let (speech, file) = (librivox("0880")?, librivox_file("0880")?);
    let alone = spoken(&server, &speech).await?;
    let fields = [("model", "recorder"), ("response_format", "text")];
    let (beside, posted) = tokio::join!(spoken(&server, &speech), server.post("", &file, &fields));
    ensure!(!alone.is_empty() && beside? == alone);
    let posted = posted?;
    ensure!(posted.starts_with("HTTP/1.1 200"), "{posted}");

    // The command says what the server says.
    let clip = directory.path().join("clip.wav");
    std::fs::write(&clip, &file)?;
    let output = Command::new(binary())
        .args(["transcribe", "--model", &recorder])
        .arg(&clip)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        text.split_whitespace().count() > 3 && body(&posted)?.contains(text.trim()),
        "{text:?} {posted}"
    );

    // Beyond the limit there is no transcript.
    let long = server.post("", &librivox_file("0870")?, &fields).await?;
    ensure!(
        long.starts_with("HTTP/1.1 413") && long.contains("at most 6 s"),
        "{long}"
    );
    Ok(())
}
