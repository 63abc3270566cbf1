//! `waxwing bench` against a running server: its soak and its picture.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use waxwing_tests::{RECORDINGS, Server, binary};

/// What `waxwing bench` prints as JSON of a server, whose sessions all say one recording of a book.
fn bench(server: &Server, arguments: &[&str]) -> Result<Value> {
    let clip = format!("{RECORDINGS}/librivox/sense_and_sensibility_01_austen_64kb-0880.wav");
    let output = Command::new(binary())
        .args(["bench", "--url", &server.url(), "--audio", &clip, "--json"])
        .args(arguments)
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{stderr}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Speakers, some that vanish, and files: all are answered, the server is read, and its rows add up.
#[tokio::test]
async fn a_short_soak_counts_every_visit() -> Result<()> {
    let server = Server::start(&[]).await?;
    let pid = server.pid().to_string();
    let soak = bench(
        &server,
        &[
            "--soak",
            "0.1",
            "--connects",
            "40",
            "--load",
            "0.2",
            "--pid",
            &pid,
        ],
    )?;
    let rows = soak["rows"].as_array().cloned().unwrap_or_default();
    let sum = |name: &str| rows.iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
    ensure!(sum("connects") == 40 && sum("failed") == 0, "{soak}");
    ensure!(
        sum("spoken") + sum("vanished") + sum("posted") + sum("refused") == 40,
        "{soak}"
    );
    ensure!(sum("vanished") > 0 && sum("posted") > 0, "{soak}");
    ensure!(soak["file_descriptors_at_rest"].as_u64() > Some(0), "{soak}");
    Ok(())
}

/// Sessions of two models at two rates, four kinds of them, all hear the same recording at the same time.
#[tokio::test]
async fn sessions_of_several_models_and_rates_have_rows_of_their_own() -> Result<()> {
    let small = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/pretrained/en-fsmn");
    let server = Server::start(&["--model", &format!("en-emformer,{small}")]).await?;
    let models = ["--sessions", "4", "--ask", "en-emformer,en-fsmn"];
    let rows = bench(&server, &[&models[..], &["--rates", "8000,44100"]].concat())?;
    let kinds = [
        Value::Null,
        "en-emformer at 8000 Hz".into(),
        "en-fsmn at 8000 Hz".into(),
        "en-emformer at 44100 Hz".into(),
        "en-fsmn at 44100 Hz".into(),
    ];
    ensure!(rows.as_array().map(Vec::len) == Some(kinds.len()), "{rows}");
    for (index, kind) in kinds.iter().enumerate() {
        let (row, sessions) = (&rows[index], if index == 0 { 4 } else { 1 });
        ensure!(row["kind"] == *kind && row["sessions_done"] == sessions, "{rows}");
        ensure!(row["words"].as_u64() > Some(0), "{rows}");
    }
    Ok(())
}

/// Whoever finds no room is told apart from whoever fails, and the picture has a point for each row.
#[tokio::test]
async fn sessions_beyond_the_slots_are_counted_as_refused() -> Result<()> {
    let server = Server::start(&["--slots", "2"]).await?;
    let directory = tempfile::tempdir()?;
    let picture = directory.path().join("load.svg");
    let file = picture.display().to_string();
    let rows = bench(
        &server,
        &["--sessions", "1,4", "--seconds", "2", "--picture", &file],
    )?;
    ensure!(
        rows[0]["sessions_refused"] == 0 && rows[0]["sessions_done"] == 1,
        "{rows}"
    );
    ensure!(
        rows[1]["sessions_refused"] == 2 && rows[1]["sessions_done"] == 2,
        "{rows}"
    );
    ensure!(std::fs::read_to_string(picture)?.matches("<polyline").count() == 5);
    Ok(())
}
