//! `waxwing decode`: the decoder on log-probs of a file, what changes its words, and what it refuses.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxwing_tests::binary;

/// Three classes and a word separator: `▁a`, `b`, `c`.
const TOKENS: &str = "<blank>\n▁a\nb\nc\n▁b\n";
const ARPA: &str =
    "\\data\\\nngram 1=5\n\n\\1-grams:\n-3\t<unk>\n-99\t<s>\n-1\t</s>\n-2\tab\n-0.3\tac\n\n\\end\\\n";

struct Case {
    directory: tempfile::TempDir,
}

impl Case {
    /// Something that spells `ab` a little more probably than `ac`.
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("tokens.txt"), TOKENS)?;
        std::fs::write(directory.path().join("en.arpa"), ARPA)?;
        let frames: [[f32; 5]; 3] = [
            [0.04, 0.9, 0.02, 0.02, 0.02],
            [0.04, 0.02, 0.5, 0.42, 0.02],
            [0.9, 0.02, 0.03, 0.03, 0.02],
        ];
        let data: Vec<u8> = frames
            .iter()
            .flatten()
            .flat_map(|p| p.ln().to_le_bytes())
            .collect();
        let header = format!(
            "{{\"log_probs\":{{\"dtype\":\"F32\",\"shape\":[3,5],\"data_offsets\":[0,{}]}}}}",
            data.len()
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend(data);
        std::fs::write(directory.path().join("heard.safetensors"), file)?;
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn decode(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(binary())
            .arg("decode")
            .arg(self.directory.path())
            .arg("--log-probs")
            .arg(self.path("heard.safetensors"))
            .args(arguments)
            .output()?;
        Ok(output)
    }

    /// The texts of all hypotheses.
    fn texts(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let output = self.decode(arguments)?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = std::str::from_utf8(&output.stdout)?.lines();
        lines
            .map(|line| {
                let line: Value = serde_json::from_str(line)?;
                Ok(line["text"].as_str().context("no text")?.to_owned())
            })
            .collect()
    }

    /// The exit code and what is said on stderr.
    fn refusal(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let output = self.decode(arguments)?;
        ensure!(output.stdout.is_empty(), "{arguments:?} was decoded");
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    }
}

fn shown(path: &Path) -> Result<&str> {
    path.to_str().context("a temporary path that is not UTF-8")
}

#[test]
fn a_language_model_and_hotwords_change_the_words() -> Result<()> {
    let case = Case::new()?;
    let arpa = case.path("en.arpa");
    let arpa = shown(&arpa)?;
    ensure!(case.texts(&[])? == ["ab"]);
    ensure!(case.texts(&["--beam-width", "8", "--alternatives", "2"])? == ["ab", "ac"]);
    ensure!(case.texts(&["--beam-width", "8", "--language-model", arpa])? == ["ac"]);
    let mut silenced = vec!["--beam-width", "8", "--language-model", arpa];
    silenced.extend(["--language-model-weight", "0", "--word-bonus", "0"]);
    ensure!(case.texts(&silenced)? == ["ab"]);
    ensure!(case.texts(&["--beam", "8", "--hotword", "ac"])? == ["ac"]);
    ensure!(case.texts(&["--beam", "8", "--hotword", "ac:0.05"])? == ["ab"]);
    Ok(())
}

#[test]
fn a_hotword_that_cannot_be_spelled_is_named_and_the_others_work() -> Result<()> {
    let case = Case::new()?;
    let output = case.decode(&["--beam", "8", "--hotword", "ad", "--hotword", "ac"])?;
    let warnings = String::from_utf8_lossy(&output.stderr);
    ensure!(
        warnings.contains("hotword `ad` is left out: the model has no token for `d` there"),
        "{warnings}"
    );
    let line: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.success() && line["text"] == "ac", "{line}");
    Ok(())
}

#[test]
fn a_malformed_language_model_is_refused_with_line_and_reason() -> Result<()> {
    let case = Case::new()?;
    let path = case.path("broken.arpa");
    std::fs::write(&path, ARPA.replace("-2\tab", "0.5\tab"))?;
    let (code, message) = case.refusal(&["--beam", "8", "--language-model", shown(&path)?])?;
    let expected = "broken.arpa: ARPA line 8: expected a log10 probability of at most 0, found `0.5`";
    ensure!(code == Some(1) && message.contains(expected), "{message}");
    let missing = case.path("missing.arpa");
    let (code, message) = case.refusal(&["--beam", "8", "--language-model", shown(&missing)?])?;
    ensure!(code == Some(1) && message.contains("cannot read"), "{message}");
    ensure!(message.matches("missing.arpa").count() == 1, "{message}");
    Ok(())
}

#[test]
fn values_out_of_range_are_named_with_their_bounds() -> Result<()> {
    let case = Case::new()?;
    for (arguments, expected) in [
        (
            &["--beam-width", "0"][..],
            "beam_width: expected 1 to 500, found 0",
        ),
        (
            &["--beam-width", "501"],
            "beam_width: expected 1 to 500, found 501",
        ),
        (
            &["--alternatives", "0"],
            "alternatives: expected 1 to 20, found 0",
        ),
        (
            &["--language-model-weight", "11"],
            "language_model_weight: expected 0 to 10, found 11",
        ),
        (
            &["--word-bonus", "-11"],
            "word_bonus: expected -10 to 10, found -11",
        ),
        (
            &["--word-bonus", "NaN"],
            "word_bonus: expected -10 to 10, found NaN",
        ),
        (
            &["--max-distance", "-1"],
            "max_distance: expected 0 to 1000, found -1",
        ),
        (&["--hotword", "ac"], "need a beam"),
    ] {
        let (code, message) = case.refusal(arguments)?;
        ensure!(
            code == Some(2) && message.contains(expected),
            "{arguments:?}: {code:?} {message}"
        );
    }
    Ok(())
}
