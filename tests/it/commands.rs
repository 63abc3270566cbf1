//! What a stranger types first does what the documents say.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxwing_tests::{RECORDINGS, binary};

/// `cargo run --release` at the root starts `waxwing`, however many binaries the workspace has: of all its members' binaries that need
/// no feature there is one, or its package names it as the default.
#[test]
fn cargo_run_starts_waxwing() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .args(["--manifest-path", manifest])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let members = &metadata["workspace_default_members"];
    let members = members.as_array().context("no default members")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut started = Vec::new();
    for package in packages.iter().filter(|package| members.contains(&package["id"])) {
        let targets = package["targets"].as_array().context("no targets")?;
        let binaries = targets
            .iter()
            .filter(|target| target["kind"][0] == "bin")
            .filter_map(|target| target["name"].as_str());
        match package["default_run"].as_str() {
            Some(default) => started.push(default),
            None => started.extend(binaries),
        }
    }
    ensure!(
        started == ["waxwing"],
        "`cargo run` would choose among {started:?}"
    );
    Ok(())
}

/// A clip in fewer bits has nearly the words that it has in f32; a precision that is not there is refused.
#[test]
fn transcribe_takes_a_precision() -> Result<()> {
    let clip = format!("{RECORDINGS}/librivox/sense_and_sensibility_01_austen_64kb-0870.wav");
    let heard = |precision: &str| {
        Command::new(binary())
            .args(["transcribe", "--precision", precision, &clip])
            .output()
    };
    let words = |precision: &str| -> Result<Vec<String>> {
        let output = heard(precision)?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout)?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let full = words("f32")?;
    for precision in ["int8", "bf16", "w8a8"] {
        let fewer = words(precision)?;
        let shared = full.iter().filter(|word| fewer.contains(word)).count();
        ensure!(
            full.len() > 5 && 4 * shared >= 3 * full.len(),
            "{precision}: {full:?} {fewer:?}"
        );
    }
    let refused = heard("int4")?;
    ensure!(refused.status.code() == Some(2));
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("int8"));
    Ok(())
}

#[test]
fn a_device_by_another_name_is_told_the_right_one() -> Result<()> {
    for (given, hint) in [
        ("gpu", "`gpu` is spelt cuda"),
        ("tpu", "`tpu` is none of auto, cpu, cuda"),
    ] {
        let output = Command::new(binary())
            .args(["check-config", "--device", given])
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && error.contains(hint), "{error}");
    }
    Ok(())
}
