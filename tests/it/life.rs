//! Sessions come and go and nothing stays behind.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use waxwing_tests::{Server, Session, librivox};

/// A thousand clients connect, speak half a second and leave, every third without a word of farewell.
#[tokio::test]
async fn a_thousand_sessions_leave_no_memory_and_no_descriptors_behind() -> Result<()> {
    let server = Server::start(&[]).await?;
    let speech = librivox("0880")?;
    let free_before = server.free_slots().await?;
    let mut after_warm_up = (0, 0);
    for cycle in 0..1000 {
        let mut session = server.session().await?;
        session.audio(&speech[..16_000]).await?;
        if cycle % 3 == 0 {
            drop(session);
        } else {
            let events = session.finish().await?;
            ensure!(
                events.last().is_some_and(|event| event["type"] == "done"),
                "cycle {cycle}: {events:?}"
            );
        }
        if cycle == 200 {
            settle(&server, free_before).await?;
            after_warm_up = server.resources()?;
        }
    }
    settle(&server, free_before).await?;
    let (kib, descriptors) = server.resources()?;
    let (kib_before, descriptors_before) = after_warm_up;
    ensure!(
        kib * 100 <= kib_before * 105,
        "resident memory grew from {kib_before} to {kib} KiB"
    );
    ensure!(
        descriptors <= descriptors_before + 2,
        "descriptors grew from {descriptors_before} to {descriptors}"
    );
    Ok(())
}

/// A frozen container, a suspended machine: a step that the process was stopped in for longer than a step may take has not hung.
#[tokio::test]
async fn a_process_that_was_stopped_in_mid_stream_goes_on_when_it_is_let() -> Result<()> {
    let server = Server::start(&[]).await?;
    let speech = librivox("0880")?.repeat(3);
    let mut undisturbed = server.session().await?;
    say(&mut undisturbed, &speech).await?;
    let expected = finals(&undisturbed.finish().await?);
    ensure!(!expected.is_empty(), "nothing was heard");
    let mut session = server.session().await?;
    say(&mut session, &speech).await?;
    // Steps follow each other without a pause now.
    while session
        .event()
        .await?
        .is_some_and(|event| event["type"] != "partial")
    {}
    server.signal("STOP")?;
    // The clock of the process goes on; how long it is stopped is what is tested.
    tokio::time::sleep(STOPPED).await;
    server.signal("CONT")?;
    ensure!(
        finals(&session.finish().await?) == expected,
        "other words after the stop"
    );
    let mut next = server.session().await?;
    say(&mut next, &speech).await?;
    ensure!(
        finals(&next.finish().await?) == expected,
        "other words in the next session"
    );
    Ok(())
}

/// Longer than a step may take.
const STOPPED: Duration = Duration::from_millis(2_500);

/// Sends audio in messages that are below the limit.
async fn say(session: &mut Session, speech: &[u8]) -> Result<()> {
    for part in speech.chunks(64_000) {
        session.audio(part).await?;
    }
    Ok(())
}

fn finals(events: &[Value]) -> Vec<String> {
    let finals = events.iter().filter(|event| event["type"] == "final");
    finals.map(|event| event["text"].to_string()).collect()
}

/// Slots come back on their own once their clients are gone; how soon is not this test's subject.
async fn settle(server: &Server, free: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.free_slots().await? < free {
        ensure!(Instant::now() < deadline, "slots were lost");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
