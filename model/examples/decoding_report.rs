//! Compares decoders on real clips as live sessions hear them: word error rate, decoding time, how soon words are stable, and
//! whether confidences mean what they say.
//!
//! ```text
//! cargo run --release --example decoding_report -- MODEL_DIR CLIPS... [--language-model FILE] [--picture OUT.svg] [--words OUT.tsv] [--keep DIR]
//!     [--settle-ms N] [--max-distance X]
//! ```
//!
//! `CLIPS` is a list, or a directory with `text.tsv`: on each line a file name, a tab, and what is said in it. The encoder runs once
//! a clip, segment by segment, three seconds of silence behind it; its log-probs are decoded anew by each decoder. `--keep` names a directory for them, so that
//! another report on the same clips need not run it again. The report is Markdown; behind it stand the numbers of `model/src/hypothesis.rs`, fitted on all lists. `--picture` draws the reliability curve of the best path and of the last row, which
//! is what sessions get by default, on the first list; `--words` lists each word of it with its confidence and whether it is right. Times are those of one thread on its core, where the
//! system counts them.
#![expect(clippy::print_stdout, reason = "the report is the output")]

mod clips;

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clips::{Heard, Stopwatch, stability};
use waxwing_model::confidence::Evidence;
use waxwing_model::evaluation::{Edit, ErrorCounts, ErrorRate, Improvement, align, normalise, percentile};
use waxwing_model::language_model::LanguageModel;
use waxwing_model::model::Model;
use waxwing_model::transcript::{Decoding, TranscriberOptions, Utterance};

/// Without a language model.
const WIDTHS: [usize; 5] = [1, 4, 16, 32, 64];
/// With one: width, and that of the second pass. The last are the defaults.
const FUSED: [(usize, usize); 4] = [(4, 0), (8, 0), (32, 0), (32, 64)];
const SILENCE_SECONDS: usize = 3;
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
    evidence: Evidence,
}

fn decode(model: &Model, log_probs: &[f32], options: &TranscriberOptions) -> Vec<Utterance> {
    let mut transcriber = model.transcriber(options.clone());
    let mut finals = Vec::new();
    transcriber.accept(log_probs, &mut finals);
    finals.extend(transcriber.finish());
    finals
}

fn outcome(model: &Model, heard: &Heard, options: &TranscriberOptions) -> Outcome {
    let watch = Stopwatch::start();
    let decoded: Vec<Vec<Utterance>> = heard
        .log_probs
        .iter()
        .map(|log_probs| decode(model, log_probs, options))
        .collect();
    let seconds = watch.seconds();
    let mut outcome = Outcome {
        evidence: match options.language_model {
            Some(_) => Evidence::LanguageModel,
            None => Evidence::Acoustics,
        },
        errors: Vec::new(),
        words: Vec::new(),
        spelled: Vec::new(),
        seconds,
        stable_after: heard
            .log_probs
            .iter()
            .flat_map(|log_probs| stability(model, log_probs, options))
            .collect(),
    };
    for (clip, utterances) in heard.clips.iter().zip(&decoded) {
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

/// What a word's confidence is a function of, and whether the word is right: 1, the log-odds of the acoustics' opinion, and its letters where those count.
type Sample = ([f64; 3], bool);

fn samples(outcome: &Outcome) -> Vec<Vec<Sample>> {
    let clips = outcome.words.iter().zip(&outcome.spelled);
    clips
        .map(|(words, spelled)| {
            let sample = |(word, (text, count, sum)): (&Judged, &(String, usize, f32))| {
                let opinion = f64::from(outcome.evidence.opinion(*count, *sum)).clamp(1e-6, 1.0 - 1e-4);
                let letters = match outcome.evidence {
                    Evidence::Acoustics => 0.0,
                    Evidence::LanguageModel | Evidence::SecondListener | Evidence::Phones => {
                        text.chars().count() as f64
                    }
                };
                ([1.0, (opinion / (1.0 - opinion)).ln(), letters], word.is_right)
            };
            words.iter().zip(spelled).map(sample).collect()
        })
        .collect()
}

fn probability(weights: &[f64; 3], features: &[f64; 3]) -> f64 {
    let odds: f64 = weights
        .iter()
        .zip(features)
        .map(|(weight, feature)| weight * feature)
        .sum();
    1.0 / (1.0 + (-odds).exp())
}

/// Platt's correction: the weights of what confidence is a function of that make what is right most probable, by Newton's method; every sample counts as its group's
/// weight says.
fn fit(groups: &[(f64, Vec<Sample>)]) -> [f64; 3] {
    let mut weights = [0.0, 0.5, 0.0];
    for _ in 0..50 {
        // Gradient in the last column; a little ridge, because letters do not always count.
        let mut system = [[0.0; 4]; 3];
        for (index, row) in system.iter_mut().enumerate() {
            row[index] = 1e-9;
        }
        for (weight, samples) in groups {
            for (features, is_right) in samples {
                let p = probability(&weights, features);
                for row in 0..3 {
                    system[row][3] += weight * features[row] * (f64::from(u8::from(*is_right)) - p);
                    for column in 0..3 {
                        system[row][column] += weight * features[row] * features[column] * p * (1.0 - p);
                    }
                }
            }
        }
        for (weight, change) in weights.iter_mut().zip(solved(system)) {
            *weight += change.clamp(-1.0, 1.0);
        }
    }
    weights
}

/// By elimination; the matrix is positive definite, so no row needs another's place.
fn solved(mut system: [[f64; 4]; 3]) -> [f64; 3] {
    for pivot in 0..3 {
        let row = system[pivot].map(|value| value / system[pivot][pivot]);
        for (index, other) in system.iter_mut().enumerate() {
            let factor = other[pivot];
            if index == pivot {
                *other = row;
            } else {
                other
                    .iter_mut()
                    .zip(row)
                    .for_each(|(value, pivot)| *value -= factor * pivot);
            }
        }
    }
    system.map(|row| row[3])
}

/// The weights fitted on all clips, and the calibration error where each half of the clips is corrected by what was fitted on the other.
fn two_fold(outcome: &Outcome) -> ([f64; 3], f64) {
    let clips = samples(outcome);
    let half =
        |parity: usize| -> Vec<Sample> { clips.iter().skip(parity).step_by(2).flatten().copied().collect() };
    let mut corrected = Vec::new();
    for parity in [0, 1] {
        let weights = fit(&[(1.0, half(1 - parity))]);
        corrected.extend(half(parity).iter().map(|(features, is_right)| Judged {
            confidence: probability(&weights, features),
            is_right: *is_right,
        }));
    }
    (fit(&[(1.0, clips.concat())]), calibration_error(&corrected))
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

/// The table of one list; draws the picture and lists the words, if asked to.
fn report(
    model: &Model,
    heard: &Heard,
    rows: &[(String, TranscriberOptions)],
    picture_file: Option<&str>,
    words_file: Option<&str>,
) -> Result<Vec<Outcome>, Box<dyn Error>> {
    println!(
        "\nModel `{}`, {}: {} clips, {:.0} s with the pauses behind them.\n",
        model.id(),
        heard.name,
        heard.clips.len(),
        heard.audio_seconds
    );
    let outcomes: Vec<Outcome> = rows
        .iter()
        .map(|(_, options)| outcome(model, heard, options))
        .collect();
    let greedy = &outcomes[0];
    println!(
        "| decoder | WER | against greedy: points better (95 % interval, probability) | decoding, of real time | stable after a word's end, s: median (p95) | \
         calibration error of words (95 % interval) | right ranked above wrong | correction fitted here: offset, slope, each letter, two-fold error |\n|---|---|---|---|---|---|---|---|"
    );
    for ((name, _), outcome) in rows.iter().zip(&outcomes) {
        let better = Improvement::between(&greedy.errors, &outcome.errors);
        let mut delays: Vec<f64> = outcome
            .stable_after
            .iter()
            .map(|frames| frames * model.output_frame_seconds())
            .collect();
        let (error, low, high) = calibration_interval(&outcome.words);
        let ([offset, slope, letter], two_fold) = two_fold(outcome);
        println!(
            "| {name} | {} | {:.1} ({:.1} to {:.1}, {:.0} %) | {:.5} | {:.2} ({:.2}) | {error:.3} ({low:.3} to {high:.3}) | {:.3} | {offset:.2}, {slope:.2}, {letter:.2}, {two_fold:.3} |",
            ErrorRate::of(&outcome.errors),
            100.0 * better.difference,
            100.0 * better.low,
            100.0 * better.high,
            100.0 * better.probability,
            outcome.seconds / heard.audio_seconds,
            percentile(&mut delays, 50.0),
            percentile(&mut delays, 95.0),
            ranking(&outcome.words.concat()),
        );
    }
    if let (Some(file), Some((name, _)), Some(last)) = (picture_file, rows.last(), outcomes.last()) {
        let curves = [
            ("best path", "#2563eb", greedy.words.concat()),
            (name.as_str(), "#ea580c", last.words.concat()),
        ];
        std::fs::write(file, picture(&curves)?)?;
    }
    if let Some(file) = words_file {
        let mut list = String::new();
        for ((name, _), outcome) in rows.iter().zip(&outcomes) {
            for (clip, (words, spelled)) in outcome.words.iter().zip(&outcome.spelled).enumerate() {
                for (word, (text, count, sum)) in words.iter().zip(spelled) {
                    writeln!(
                        list,
                        "{name}	{clip}	{text}	{:.5}	{}	{count}	{sum:.5}",
                        word.confidence,
                        u8::from(word.is_right)
                    )?;
                }
            }
        }
        std::fs::write(file, list)?;
    }
    Ok(outcomes)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut paths, mut picture_file, mut words_file) = (Vec::new(), None, None);
    let (mut settle_ms, mut max_distance) = (None, None);
    let (mut language_model, mut kept) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--picture" => picture_file = Some(arguments.next().ok_or("--picture needs a file")?),
            "--words" => words_file = Some(arguments.next().ok_or("--words needs a file")?),
            "--settle-ms" => {
                settle_ms = Some(arguments.next().ok_or("--settle-ms needs a number")?.parse()?);
            }
            "--max-distance" => {
                max_distance = Some(arguments.next().ok_or("--max-distance needs a number")?.parse()?);
            }
            "--language-model" => {
                let file = PathBuf::from(arguments.next().ok_or("--language-model needs a file")?);
                language_model = Some(Arc::new(LanguageModel::load(&file)?));
            }
            "--keep" => kept = Some(PathBuf::from(arguments.next().ok_or("--keep needs a directory")?)),
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    let [directory, lists @ ..] = paths.as_slice() else {
        return Err("expected MODEL_DIR and CLIPS".into());
    };
    let model = Model::load(directory)?;
    let with = |decoding: Decoding, language_model: Option<Arc<LanguageModel>>| TranscriberOptions {
        decoding: Decoding {
            settle_ms: settle_ms.unwrap_or(decoding.settle_ms),
            max_distance: max_distance.unwrap_or(decoding.max_distance),
            ..decoding
        },
        language_model,
        ..TranscriberOptions::default()
    };
    let mut rows: Vec<(String, TranscriberOptions)> = Vec::new();
    for beam_width in WIDTHS {
        let decoding = Decoding {
            beam_width,
            second_pass_width: 0,
            ..Decoding::with_language_model()
        };
        let name = if beam_width == 1 {
            "best path".to_owned()
        } else {
            format!("beam of {beam_width}")
        };
        rows.push((name, with(decoding, None)));
    }
    for (beam_width, second_pass_width) in FUSED {
        let Some(language_model) = &language_model else {
            break;
        };
        let decoding = Decoding {
            beam_width,
            second_pass_width,
            ..Decoding::with_language_model()
        };
        let wide = match second_pass_width {
            0 => String::new(),
            width => format!(", second pass of {width}"),
        };
        let name = format!("beam of {beam_width}, language model{wide}");
        rows.push((name, with(decoding, Some(Arc::clone(language_model)))));
    }
    let mut all = Vec::new();
    for list in lists {
        let heard = Heard::read(&model, directory, list, kept.as_deref(), SILENCE_SECONDS)?;
        // Those of the first list.
        let (picture, words) = (picture_file.take(), words_file.take());
        all.push(report(
            &model,
            &heard,
            &rows,
            picture.as_deref(),
            words.as_deref(),
        )?);
    }
    println!(
        "\nCorrections fitted on all lists, each list counting as much as any other: offset, slope, each letter\n"
    );
    for (index, (name, _)) in rows.iter().enumerate() {
        let groups: Vec<(f64, Vec<Sample>)> = all
            .iter()
            .filter_map(|outcomes| outcomes.get(index))
            .map(|outcome| samples(outcome).concat())
            .map(|samples| (1000.0 / samples.len().max(1) as f64, samples))
            .collect();
        let [offset, slope, letter] = fit(&groups);
        println!("* {name}: {offset:.2}, {slope:.2}, {letter:.2}");
    }
    Ok(())
}
