//! `waxwing bench` against a running server: its soak and its picture.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use waxwing_tests::{RECORDINGS, Server, binary};

/// Speakers, some that vanish, and files: all are answered, the server is read, and its rows add up.
#[tokio::test]
async fn a_short_soak_counts_every_visit() -> Result<()> {
    let server = Server::start(&[]).await?;
    let clip = format!("{RECORDINGS}/librivox/sense_and_sensibility_01_austen_64kb-0880.wav");
    let output = Command::new(binary())
        .args(["bench", "--url", &server.url(), "--audio", &clip, "--json"])
        .args([
            "--soak",
            "0.1",
            "--connects",
            "40",
            "--load",
            "0.2",
            "--pid",
            &server.pid().to_string(),
        ])
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{stderr}");
    let soak: Value = serde_json::from_slice(&output.stdout)?;
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

/// Whoever finds no room is told apart from whoever fails, and the picture has a point for each row.
#[tokio::test]
async fn sessions_beyond_the_slots_are_counted_as_refused() -> Result<()> {
    let server = Server::start(&["--slots", "2"]).await?;
    let clip = format!("{RECORDINGS}/librivox/sense_and_sensibility_01_austen_64kb-0880.wav");
    let directory = tempfile::tempdir()?;
    let picture = directory.path().join("load.svg");
    let output = Command::new(binary())
        .args(["bench", "--url", &server.url(), "--audio", &clip, "--json"])
        .args(["--sessions", "1,4", "--seconds", "2", "--picture"])
        .arg(&picture)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rows: Value = serde_json::from_slice(&output.stdout)?;
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
