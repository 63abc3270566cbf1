//! Compares decoders on real clips as live sessions hear them: word error rate, decoding time, how soon words are stable, and
//! whether confidences mean what they say.
//!
//! ```text
//! cargo run --release --example decoding_report -- MODEL_DIR CLIPS_DIR [--picture OUT.svg] [--words OUT.tsv] [--settle-ms N] [--max-distance X]
//!     [--language-model FILE]
//! ```
//!
//! `CLIPS_DIR` holds audio files and `text.tsv`: on each line a file name, a tab, and what is said in it. The encoder runs once
//! a clip, segment by segment, three seconds of silence behind it; its log-probs are decoded anew by each decoder. The
//! report is Markdown. `--picture` draws the reliability curve of the best path and of the widest beam; `--words` lists each word with
//! its confidence and whether it is right.
#![expect(clippy::print_stdout, reason = "the report is the output")]

mod clips;

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clips::{Clip, stability};
use waxwing_model::evaluation::{Edit, ErrorCounts, ErrorRate, Improvement, align, normalise, percentile};
use waxwing_model::language_model::LanguageModel;
use waxwing_model::model::Model;
use waxwing_model::transcript::{Decoding, TranscriberOptions, Utterance};

const WIDTHS: [usize; 6] = [1, 4, 8, 16, 32, 64];
const BINS: usize = 10;
const RESAMPLES: u64 = 1000;

/// A recognised word: how sure the decoder was, and whether it is right.
#[derive(Debug, Clone, Copy)]
struct Judged {
    confidence: f64,
    is_right: bool,
}

/// What one decoder makes of all clips.
struct Outcome {
    errors: Vec<ErrorCounts>,
    /// The words of each clip.
    words: Vec<Vec<Judged>>,
    /// The spelled words, beside `words`, each with its number of tokens and the sum of their log-posteriors.
    spelled: Vec<Vec<(String, usize, f32)>>,
    seconds: f64,
    /// From a word's end to its being stable, in frames.
    stable_after: Vec<f64>,
}

fn options(decoding: Decoding) -> TranscriberOptions {
    TranscriberOptions {
        decoding,
        ..TranscriberOptions::default()
    }
}

fn decode(model: &Model, log_probs: &[f32], decoding: Decoding) -> Vec<Utterance> {
    let mut transcriber = model.transcriber(options(decoding));
    let mut finals = Vec::new();
    transcriber.accept(log_probs, &mut finals);
    finals.extend(transcriber.finish());
    finals
}

fn outcome(model: &Model, clips: &[Clip], heard: &[Vec<f32>], decoding: Decoding) -> Outcome {
    let begin = Instant::now();
    let decoded: Vec<Vec<Utterance>> = heard
        .iter()
        .map(|log_probs| decode(model, log_probs, decoding))
        .collect();
    let seconds = begin.elapsed().as_secs_f64();
    let mut outcome = Outcome {
        errors: Vec::new(),
        words: Vec::new(),
        spelled: Vec::new(),
        seconds,
        stable_after: heard
            .iter()
            .flat_map(|log_probs| stability(model, log_probs, &options(decoding)))
            .collect(),
    };
    for (clip, utterances) in clips.iter().zip(&decoded) {
        let reference = normalise(&clip.reference);
        let words: Vec<_> = utterances.iter().flat_map(|utterance| &utterance.words).collect();
        let spelled: Vec<String> = words.iter().map(|word| word.word.clone()).collect();
        let mut judged: Vec<Judged> = words
            .iter()
            .map(|word| Judged {
                confidence: f64::from(word.confidence),
                is_right: false,
            })
            .collect();
        for edit in align(&reference, &spelled) {
            if let Edit::Match { hypothesis, .. } = edit {
                judged[hypothesis].is_right = true;
            }
        }
        outcome.errors.push(ErrorCounts::between(&reference, &spelled));
        outcome.words.push(judged);
        let sums = utterances
            .iter()
            .flat_map(|utterance| token_sums(model, utterance));
        let spelled = spelled.into_iter().zip(sums);
        outcome
            .spelled
            .push(spelled.map(|(word, (count, sum))| (word, count, sum)).collect());
    }
    outcome
}

/// Of each word: its number of tokens and the sum of their log-posteriors.
fn token_sums(model: &Model, utterance: &Utterance) -> Vec<(usize, f32)> {
    let (mut sums, mut has_letters) = (vec![(0, 0.0)], false);
    for token in &utterance.tokens {
        if model.tokens().begins_word(token.id) && has_letters {
            sums.push((0, 0.0));
            has_letters = false;
        }
        has_letters |= !model.tokens().spelling(token.id).is_empty();
        if let Some(last) = sums.last_mut() {
            *last = (last.0 + 1, last.1 + token.log_posterior);
        }
    }
    sums
}

/// Words of equal width in confidence: how many, their mean confidence, and the share that is right.
fn bins(words: &[Judged]) -> Vec<(f64, f64, f64)> {
    let mut sums = vec![(0.0, 0.0, 0.0); BINS];
    for word in words {
        let bin = ((word.confidence * BINS as f64) as usize).min(BINS - 1);
        sums[bin].0 += 1.0;
        sums[bin].1 += word.confidence;
        sums[bin].2 += f64::from(u8::from(word.is_right));
    }
    sums.into_iter()
        .map(|(count, confidence, right)| (count, confidence / count, right / count))
        .collect()
}

/// Expected calibration error (Naeini et al., AAAI 2015): the mean distance of confidence and share of right words over the
/// bins, weighted by their words.
fn calibration_error(words: &[Judged]) -> f64 {
    let total = words.len().max(1) as f64;
    bins(words)
        .into_iter()
        .filter(|bin| bin.0 > 0.0)
        .map(|(count, confidence, right)| count / total * (confidence - right).abs())
        .sum()
}

/// The error with the interval that holds 95 % of a bootstrap over clips.
fn calibration_interval(clips: &[Vec<Judged>]) -> (f64, f64, f64) {
    let mut state = 1u64;
    let mut draw = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(state) * clips.len() as u128) >> 64) as usize
    };
    let mut errors: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<Judged> = (0..clips.len()).flat_map(|_| clips[draw()].clone()).collect();
            calibration_error(&sample)
        })
        .collect();
    (
        calibration_error(&clips.concat()),
        percentile(&mut errors, 2.5),
        percentile(&mut errors, 97.5),
    )
}

/// Platt's correction of the models' own opinion: the offset and the slope of its log-odds that make what is right most
/// probable, by Newton's method.
fn fit(words: &[(f64, bool)]) -> (f64, f64) {
    let (mut offset, mut slope) = (0.0, 1.0);
    for _ in 0..50 {
        let (mut g0, mut g1, mut h00, mut h01, mut h11) = (0.0, 0.0, 1e-6, 0.0, 1e-6);
        for &(odds, is_right) in words {
            let p = 1.0 / (1.0 + (-offset - slope * odds).exp());
            let (error, weight) = (f64::from(u8::from(is_right)) - p, p * (1.0 - p));
            g0 += error;
            g1 += error * odds;
            h00 += weight;
            h01 += weight * odds;
            h11 += weight * odds * odds;
        }
        let determinant = h00 * h11 - h01 * h01;
        offset += (h11 * g0 - h01 * g1) / determinant;
        slope += (h00 * g1 - h01 * g0) / determinant;
    }
    (offset, slope)
}

/// Offset and slope fitted on all clips, and the calibration error where each half of the clips is corrected by what was
/// fitted on the other.
fn two_fold(outcome: &Outcome) -> (f64, f64, f64) {
    let clips: Vec<Vec<(f64, bool)>> = outcome
        .words
        .iter()
        .zip(&outcome.spelled)
        .map(|(words, spelled)| {
            let odds = |sum: f32| {
                let opinion = f64::from(sum).exp().clamp(1e-6, 1.0 - 1e-4);
                (opinion / (1.0 - opinion)).ln()
            };
            words
                .iter()
                .zip(spelled)
                .map(|(word, (_, _, sum))| (odds(*sum), word.is_right))
                .collect()
        })
        .collect();
    let half = |parity: usize| -> Vec<(f64, bool)> {
        clips.iter().skip(parity).step_by(2).flatten().copied().collect()
    };
    let mut corrected = Vec::new();
    for parity in [0, 1] {
        let (offset, slope) = fit(&half(1 - parity));
        corrected.extend(half(parity).into_iter().map(|(odds, is_right)| Judged {
            confidence: 1.0 / (1.0 + (-offset - slope * odds).exp()),
            is_right,
        }));
    }
    let (offset, slope) = fit(&clips.concat());
    (offset, slope, calibration_error(&corrected))
}

/// The area under the curve of right words against wrong ones: how well confidence orders words, whatever its values.
fn ranking(words: &[Judged]) -> f64 {
    let of = |right: bool| words.iter().filter(move |word| word.is_right == right);
    let mut sum = 0.0;
    for right in of(true) {
        for wrong in of(false) {
            sum += match right.confidence.total_cmp(&wrong.confidence) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    sum / (of(true).count() * of(false).count()).max(1) as f64
}

/// The reliability curves as an SVG: share of right words over confidence, the area of a dot as its number of words.
fn picture(curves: &[(&str, &str, Vec<Judged>)]) -> Result<String, std::fmt::Error> {
    const SIDE: f64 = 320.0;
    const LEFT: f64 = 56.0;
    const TOP: f64 = 16.0;
    let x = |value: f64| LEFT + SIDE * value;
    let y = |value: f64| TOP + SIDE * (1.0 - value);
    let mut svg = String::new();
    writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 400" font-family="sans-serif" font-size="12">
<title>Share of right words over their confidence</title>
<rect width="400" height="400" fill="#fff"/>"##
    )?;
    for tick in 0..=5 {
        let value = f64::from(tick) / 5.0;
        writeln!(
            svg,
            r##"<path d="M{0:.1} {1:.1}V{2:.1}M{3:.1} {4:.1}H{5:.1}" stroke="#ddd"/><text x="{0:.1}" y="{6:.1}" text-anchor="middle">{value:.1}</text><text x="{7:.1}" y="{8:.1}" text-anchor="end">{value:.1}</text>"##,
            x(value),
            y(0.0),
            y(1.0),
            x(0.0),
            y(value),
            x(1.0),
            y(0.0) + 18.0,
            x(0.0) - 8.0,
            y(value) + 4.0,
        )?;
    }
    writeln!(
        svg,
        r##"<path d="M{:.1} {:.1}L{:.1} {:.1}" stroke="#888" stroke-dasharray="4 4"/><text x="{:.1}" y="{:.1}" text-anchor="middle">confidence</text><text transform="translate(16 {:.1}) rotate(-90)" text-anchor="middle">share of words that are right</text>"##,
        x(0.0),
        y(0.0),
        x(1.0),
        y(1.0),
        x(0.5),
        y(0.0) + 40.0,
        y(0.5),
    )?;
    for (index, (name, colour, words)) in curves.iter().enumerate() {
        let found: Vec<_> = bins(words).into_iter().filter(|bin| bin.0 > 0.0).collect();
        let points: Vec<String> = found
            .iter()
            .map(|(_, confidence, right)| format!("{:.1},{:.1}", x(*confidence), y(*right)))
            .collect();
        writeln!(
            svg,
            r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"##,
            points.join(" ")
        )?;
        for (count, confidence, right) in found {
            let radius = (count / words.len() as f64 * 200.0).sqrt().max(1.5);
            writeln!(
                svg,
                r##"<circle cx="{:.1}" cy="{:.1}" r="{radius:.1}" fill="{colour}" fill-opacity="0.5"/>"##,
                x(confidence),
                y(right)
            )?;
        }
        let line = TOP + 18.0 + 18.0 * index as f64;
        writeln!(
            svg,
            r##"<rect x="{:.1}" y="{:.1}" width="12" height="4" fill="{colour}"/><text x="{:.1}" y="{line:.1}">{name}</text>"##,
            LEFT + 12.0,
            line - 6.0,
            LEFT + 30.0,
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut paths, mut picture_file, mut words_file) = (Vec::new(), None, None);
    let mut settings = Decoding::default();
    let mut language_model = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--picture" => picture_file = Some(arguments.next().ok_or("--picture needs a file")?),
            "--words" => words_file = Some(arguments.next().ok_or("--words needs a file")?),
            "--settle-ms" => {
                settings.settle_ms = arguments.next().ok_or("--settle-ms needs a number")?.parse()?
            }
            "--max-distance" => {
                settings.max_distance = arguments.next().ok_or("--max-distance needs a number")?.parse()?;
            }
            "--language-model" => {
                let file = PathBuf::from(arguments.next().ok_or("--language-model needs a file")?);
                language_model = Some(Arc::new(LanguageModel::load(&file)?));
                settings = Decoding::with_language_model();
            }
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    let [model, clips] = <[PathBuf; 2]>::try_from(paths).map_err(|_| "expected MODEL_DIR and CLIPS_DIR")?;
    let mut model = Model::load(&model)?;
    if let Some(language_model) = language_model {
        model = model.with_language_model(language_model);
    }
    let clips = Clip::read_all(&clips)?;
    let begin = Instant::now();
    let heard = clips
        .iter()
        .map(|clip| clip.hear(&model, 3))
        .collect::<Result<Vec<_>, _>>()?;
    let encoding = begin.elapsed().as_secs_f64();
    let audio: f64 = clips.iter().map(|clip| clip.seconds() + 3.0).sum();
    println!(
        "Model `{}`, {} clips, {audio:.0} s with the pauses behind them; the encoder took {encoding:.0} s, {:.4} of real time.\n",
        model.id(),
        clips.len(),
        encoding / audio
    );
    let outcomes: Vec<Outcome> = WIDTHS
        .iter()
        .map(|&beam_width| {
            outcome(
                &model,
                &clips,
                &heard,
                Decoding {
                    beam_width,
                    ..settings
                },
            )
        })
        .collect();
    let greedy = &outcomes[0];
    println!(
        "| beam | WER | against greedy: points better (95 % interval, probability) | decoding, of real time | stable after a word's end, s: median (p95) | \
         calibration error of words (95 % interval) | right ranked above wrong | correction fitted here: offset, slope, two-fold error |\n|---|---|---|---|---|---|---|---|"
    );
    for (width, outcome) in WIDTHS.iter().zip(&outcomes) {
        let better = Improvement::between(&greedy.errors, &outcome.errors);
        let mut delays: Vec<f64> = outcome
            .stable_after
            .iter()
            .map(|frames| frames * model.output_frame_seconds())
            .collect();
        let (error, low, high) = calibration_interval(&outcome.words);
        let (offset, slope, two_fold) = two_fold(outcome);
        println!(
            "| {width} | {} | {:.1} ({:.1} to {:.1}, {:.0} %) | {:.5} | {:.2} ({:.2}) | {error:.3} ({low:.3} to {high:.3}) | {:.3} | {offset:.2}, {slope:.2}, {two_fold:.3} |",
            ErrorRate::of(&outcome.errors),
            100.0 * better.difference,
            100.0 * better.low,
            100.0 * better.high,
            100.0 * better.probability,
            outcome.seconds / audio,
            percentile(&mut delays, 50.0),
            percentile(&mut delays, 95.0),
            ranking(&outcome.words.concat()),
        );
    }
    if let (Some(file), Some(widest)) = (picture_file, outcomes.last()) {
        let curves = [
            ("best path", "#2563eb", greedy.words.concat()),
            ("beam of 64", "#ea580c", widest.words.concat()),
        ];
        std::fs::write(file, picture(&curves)?)?;
    }
    if let Some(file) = words_file {
        let mut list = String::new();
        for (width, outcome) in WIDTHS.iter().zip(&outcomes) {
            for (clip, (words, spelled)) in outcome.words.iter().zip(&outcome.spelled).enumerate() {
                for (word, (text, count, sum)) in words.iter().zip(spelled) {
                    writeln!(
                        list,
                        "{width}	{clip}	{text}	{:.5}	{}	{count}	{sum:.5}",
                        word.confidence,
                        u8::from(word.is_right)
                    )?;
                }
            }
        }
        std::fs::write(file, list)?;
    }
    Ok(())
}
