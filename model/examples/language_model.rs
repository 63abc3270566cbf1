//! Makes a compact language model, and measures what one, hotwords and a second pass do on real clips.
//!
//! ```text
//! cargo run --release --example language_model -- convert ARPA OUT
//! cargo run --release --example language_model -- report MODEL_DIR LANGUAGE_MODEL CLIPS... [--keep DIR]
//! cargo run --release --example language_model -- choose | second-pass | tradeoff | changes MODEL_DIR LANGUAGE_MODEL CLIPS... [--keep DIR]
//! ```
//!
//! `CLIPS` is a list, or a directory with `text.tsv`, as for `decoding_report`; `--keep` names a directory for what the encoder heard, so that the next report on the
//! same clips need not run it again. `report` chooses weight, word bonus and the price of unknown words on the even clips of all lists together (counted from 0), and
//! shows the odd ones and all of each list. Its hotwords are every second one, by alphabet, of the words of at least seven letters in the
//! transcripts, its phrases every fourth pair of neighbouring words; one list for all clips. `choose` and `second-pass` are its parts that choose and that time second passes. `tradeoff` shows errors, time and how late words are stable, over the width of
//! the beam, when it settles, and the width of the second pass. `changes` lists the clips that the best path and the shipped settings spell differently. Times are
//! those of one thread on its core, where the system counts them; those of single steps, too short for that, are the shortest of several runs.
#![expect(clippy::print_stdout, reason = "the report is the output")]

mod clips;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clips::{Heard, Stopwatch, stability};
use waxwing_model::ctc::{Hotword, Hotwords};
use waxwing_model::evaluation::{Edit, ErrorCounts, ErrorRate, Improvement, align, normalise, percentile};
use waxwing_model::language_model::LanguageModel;
use waxwing_model::model::Model;
use waxwing_model::transcript::{Decoding, TranscriberOptions};

const WEIGHTS: [f32; 5] = [0.2, 0.3, 0.4, 0.5, 0.6];
const BONUSES: [f32; 3] = [0.0, 1.0, 2.0];
const UNKNOWN: [f32; 3] = [-10.0, -20.0, -30.0];
/// Width, settle_ms, width of the second pass.
const TRADEOFF: [(usize, u32, usize); 16] = [
    (1, 1000, 0),
    (4, 1000, 0),
    (8, 500, 0),
    (8, 1000, 0),
    (8, 1500, 0),
    (16, 500, 0),
    (16, 1000, 0),
    (16, 1500, 0),
    (32, 500, 0),
    (32, 1000, 0),
    (32, 1500, 0),
    (64, 1000, 0),
    (64, 1500, 0),
    (8, 1000, 64),
    (32, 1000, 64),
    (32, 1000, 128),
];
const BOOSTS: [f32; 10] = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
const HOTWORD_LETTERS: usize = 7;
const SILENCE_SECONDS: usize = 3;
const PHRASE_LETTERS: usize = 8;
/// Runs of which the shortest time of each step counts, because other work interrupts some.
const RUNS: usize = 5;
/// Output frames that are handed over at once: one step of the encoder.
const STRIDE: usize = 32;

struct Bench {
    model: Model,
    language_model: Arc<LanguageModel>,
    lists: Vec<Heard>,
}

/// What one decoder made of a list.
struct Outcome {
    /// The words of each clip.
    texts: Vec<Vec<String>>,
    errors: Vec<ErrorCounts>,
    real_time_factor: f64,
    /// Of each step in which an utterance ended, seconds.
    ends: Vec<f64>,
}

impl Bench {
    fn load(arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        let (mut paths, mut kept) = (Vec::new(), None);
        let mut arguments = arguments.iter();
        while let Some(&argument) = arguments.next() {
            match argument {
                "--keep" => kept = Some(PathBuf::from(arguments.next().ok_or("--keep needs a directory")?)),
                _ => paths.push(Path::new(argument)),
            }
        }
        let [directory, language_model, lists @ ..] = paths.as_slice() else {
            return Err("expected MODEL_DIR LANGUAGE_MODEL CLIPS...".into());
        };
        let model = Model::load(directory)?;
        let watch = Stopwatch::start();
        let language_model = Arc::new(LanguageModel::load(language_model)?);
        println!(
            "Model `{}`; language model of {:?} n-grams, loaded in {:.3} s.",
            model.id(),
            language_model.num_ngrams(),
            watch.seconds()
        );
        let lists = lists
            .iter()
            .map(|list| Heard::read(&model, directory, list, kept.as_deref(), SILENCE_SECONDS));
        Ok(Self {
            lists: lists.collect::<Result<_, _>>()?,
            model,
            language_model,
        })
    }

    fn decode(&self, list: &Heard, options: &TranscriberOptions) -> Outcome {
        let width = self.model.geometry().output_dim;
        let (mut texts, mut ends) = (Vec::new(), Vec::new());
        let all = Stopwatch::start();
        for log_probs in &list.log_probs {
            let mut transcriber = self.model.transcriber(options.clone());
            let (mut finals, mut known) = (Vec::new(), 0);
            for frames in log_probs.chunks(STRIDE * width) {
                let step = Instant::now();
                transcriber.accept(frames, &mut finals);
                if finals.len() > known {
                    ends.push(step.elapsed().as_secs_f64());
                    known = finals.len();
                }
            }
            finals.extend(transcriber.finish());
            let words = finals.into_iter().flat_map(|last| last.words);
            texts.push(words.map(|word| word.word).collect::<Vec<String>>());
        }
        let real_time_factor = all.seconds() / list.audio_seconds;
        let pairs = list.clips.iter().zip(&texts);
        let errors = pairs
            .map(|(clip, text)| ErrorCounts::between(&normalise(&clip.reference), text))
            .collect();
        Outcome {
            texts,
            errors,
            real_time_factor,
            ends,
        }
    }

    fn greedy(&self) -> TranscriberOptions {
        let decoding = Decoding {
            beam_width: 1,
            ..Decoding::default()
        };
        TranscriberOptions {
            decoding,
            ..TranscriberOptions::default()
        }
    }

    fn fused(&self, decoding: Decoding) -> TranscriberOptions {
        TranscriberOptions {
            decoding,
            language_model: Some(Arc::clone(&self.language_model)),
            ..TranscriberOptions::default()
        }
    }

    fn boosted(&self, hotwords: &BTreeSet<String>, boost: f32) -> TranscriberOptions {
        let hotwords: Vec<Hotword> = hotwords
            .iter()
            .map(|text| Hotword {
                text: text.clone(),
                boost,
            })
            .collect();
        // Beyond what sessions may ask for, to see what the cap is there for.
        let (automaton, warnings) = Hotwords::with_boosts(self.model.tokens(), &hotwords, 0.0..=100.0);
        warnings.iter().for_each(|warning| println!("{warning}"));
        TranscriberOptions {
            hotwords: Some(Arc::new(automaton)),
            ..self.fused(Decoding::with_language_model())
        }
    }

    /// Weight, bonus and price of unknown words with the fewest errors on the even clips, and the table of all.
    fn choose(&self) -> Decoding {
        println!("\nErrors on the even clips of all lists together:");
        let mut best = (usize::MAX, Decoding::with_language_model());
        for unknown_word_log_prob in UNKNOWN {
            let columns = BONUSES.map(|bonus| format!("bonus {bonus}"));
            println!(
                "\nAn unknown word at {unknown_word_log_prob}:\n\n| weight | {} |\n|---|{}",
                columns.join(" | "),
                "---|".repeat(BONUSES.len())
            );
            for language_model_weight in WEIGHTS {
                let mut row = format!("| {language_model_weight} |");
                for word_bonus in BONUSES {
                    let decoding = Decoding {
                        language_model_weight,
                        word_bonus,
                        unknown_word_log_prob,
                        ..Decoding::with_language_model()
                    };
                    let options = self.fused(decoding);
                    let of = |list| half(&self.decode(list, &options).errors, 0);
                    let errors = self.lists.iter().flat_map(of).sum::<ErrorCounts>().errors();
                    row += &format!(" {errors} |");
                    if errors < best.0 {
                        best = (errors, decoding);
                    }
                }
                println!("{row}");
            }
        }
        best.1
    }
}

/// Share of hotwords that are found, their number, and errors in all other words.
fn recall(list: &Heard, texts: &[Vec<String>], hotwords: &BTreeSet<String>) -> (f64, usize, usize) {
    let (mut found, mut spoken, mut damage) = (0, 0, 0);
    for (clip, text) in list.clips.iter().zip(texts) {
        let reference = normalise(&clip.reference);
        let mut is_right = vec![false; reference.len()];
        let mut insertions = 0;
        for edit in align(&reference, text) {
            match edit {
                Edit::Match { reference: at, .. } => is_right[at] = true,
                Edit::Insertion { .. } => insertions += 1,
                Edit::Substitution { .. } | Edit::Deletion { .. } => {}
            }
        }
        let mut is_other = vec![true; reference.len()];
        for length in 1..=2 {
            for (from, words) in reference.windows(length).enumerate() {
                if hotwords.contains(&words.join(" ")) {
                    spoken += 1;
                    found += usize::from(is_right[from..from + length].iter().all(|&right| right));
                    is_other[from..from + length].fill(false);
                }
            }
        }
        let wrong = is_other
            .iter()
            .zip(&is_right)
            .filter(|&(&other, &right)| other && !right);
        damage += insertions + wrong.count();
    }
    (found as f64 / spoken.max(1) as f64, spoken, damage)
}

/// How many points better, with its interval and probability.
fn gain(one: &[ErrorCounts], other: &[ErrorCounts]) -> String {
    let Improvement {
        difference,
        low,
        high,
        probability,
    } = Improvement::between(one, other);
    format!(
        "{:.1} ({:.1} to {:.1}; {:.1} %)",
        100.0 * difference,
        100.0 * low,
        100.0 * high,
        100.0 * probability
    )
}

fn half(errors: &[ErrorCounts], parity: usize) -> Vec<ErrorCounts> {
    errors.iter().skip(parity).step_by(2).copied().collect()
}

fn tradeoff(bench: &Bench) {
    for list in &bench.lists {
        let mut first: Option<Vec<ErrorCounts>> = None;
        println!(
            "\n{}:\n\n| width | settles after, ms | second pass | word errors | better than the first row by, points | real-time factor | stable after, s: median (p95) |\n|---|---|---|---|---|---|---|",
            list.name
        );
        for (beam_width, settle_ms, second_pass_width) in TRADEOFF {
            let options = bench.fused(Decoding {
                beam_width,
                settle_ms,
                second_pass_width,
                ..Decoding::default()
            });
            let outcome = bench.decode(list, &options);
            let against = first.get_or_insert_with(|| outcome.errors.clone());
            let delays = list
                .log_probs
                .iter()
                .flat_map(|heard| stability(&bench.model, heard, &options));
            let mut delays: Vec<f64> = delays
                .map(|frames| frames * bench.model.output_frame_seconds())
                .collect();
            println!(
                "| {beam_width} | {settle_ms} | {second_pass_width} | {} | {} | {:.5} | {:.2} ({:.2}) |",
                ErrorRate::of(&outcome.errors),
                gain(against, &outcome.errors),
                outcome.real_time_factor,
                percentile(&mut delays, 50.0),
                percentile(&mut delays, 95.0),
            );
        }
    }
}

/// Seconds of a second pass over a word of nine seconds that nothing is known about: hardly one can be dearer.
fn dearest_end(bench: &Bench, options: &TranscriberOptions) -> f64 {
    let tokens = bench.model.tokens();
    let frames = (9.0 / bench.model.output_frame_seconds()) as usize;
    let mut state = 1u64;
    let mut log_probs = Vec::new();
    for _ in 0..frames {
        for id in 0..tokens.len() as u32 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let noise = (state >> 40) as f32 / (1 << 24) as f32;
            log_probs.push(if tokens.begins_word(id) {
                -30.0
            } else {
                -4.5 - 2.0 * noise
            });
        }
    }
    // A word must have begun.
    let begin = (0..)
        .take(tokens.len())
        .find(|&id| tokens.begins_word(id))
        .unwrap_or(0);
    let mut first = vec![-20.0; tokens.len()];
    first[begin as usize] = -0.01;
    let run = |_| {
        let mut transcriber = bench.model.transcriber(options.clone());
        let mut finals = Vec::new();
        transcriber.accept(&first, &mut finals);
        transcriber.accept(&log_probs, &mut finals);
        let watch = Stopwatch::start();
        std::hint::black_box(transcriber.finish());
        watch.seconds()
    };
    (0..RUNS).map(run).fold(f64::INFINITY, f64::min)
}

fn second_pass(bench: &Bench, list: &Heard) {
    println!(
        "\nA step of the encoder ({STRIDE} output frames) in which an utterance ends:\n\n| second pass | utterances | median, ms | p99, ms | longest, ms | a word of nine seconds of noise, ms |\n|---|---|---|---|---|---|"
    );
    for second_pass_width in [0, 64, 128, 200] {
        let options = bench.fused(Decoding {
            second_pass_width,
            ..Decoding::with_language_model()
        });
        let mut ends = bench.decode(list, &options).ends;
        for _ in 1..RUNS {
            let again = bench.decode(list, &options).ends;
            ends.iter_mut()
                .zip(again)
                .for_each(|(best, other)| *best = best.min(other));
        }
        println!(
            "| {second_pass_width} | {} | {:.2} | {:.2} | {:.2} | {:.1} |",
            ends.len(),
            1e3 * percentile(&mut ends, 50.0),
            1e3 * percentile(&mut ends, 99.0),
            1e3 * percentile(&mut ends, 100.0),
            1e3 * dearest_end(bench, &options),
        );
    }
}

fn systems(bench: &Bench, list: &Heard, best: Decoding, hotwords: &BTreeSet<String>) {
    let shipped = Decoding::with_language_model();
    let first_pass = Decoding {
        second_pass_width: 0,
        ..shipped
    };
    let mut beam = bench.fused(first_pass);
    beam.language_model = None;
    let systems = [
        ("greedy", bench.greedy()),
        ("beam", beam),
        ("beam + language model", bench.fused(first_pass)),
        (
            "beam + language model + second pass, without the second listener",
            bench.fused(shipped),
        ),
        ("the same with what was best on the even clips", bench.fused(best)),
        (
            "the default + hotwords",
            bench.boosted(hotwords, Hotwords::DEFAULT_BOOST),
        ),
    ];
    println!(
        "| decoder | odd clips | better than greedy by, points | all clips | better than greedy by, points | better than the row above by, points | real-time factor |\n|---|---|---|---|---|---|---|"
    );
    let (mut first, mut above): (Option<Vec<ErrorCounts>>, Option<Vec<ErrorCounts>>) = (None, None);
    for (name, options) in &systems {
        let outcome = bench.decode(list, options);
        let errors = outcome.errors;
        let against = first.get_or_insert_with(|| errors.clone());
        println!(
            "| {name} | {} | {} | {} | {} | {} | {:.5} |",
            ErrorRate::of(&half(&errors, 1)),
            gain(&half(against, 1), &half(&errors, 1)),
            ErrorRate::of(&errors),
            gain(against, &errors),
            gain(above.as_ref().unwrap_or(against), &errors),
            outcome.real_time_factor,
        );
        above = Some(errors);
    }
}

fn report(bench: &Bench) {
    let best = bench.choose();
    println!(
        "\nBest on the even clips: weight {}, bonus {}, unknown words at {}.",
        best.language_model_weight, best.word_bonus, best.unknown_word_log_prob
    );
    for list in &bench.lists {
        println!(
            "\n{}: {} clips, {:.0} s.\n",
            list.name,
            list.clips.len(),
            list.audio_seconds
        );
        let references: Vec<Vec<String>> = list.clips.iter().map(|clip| normalise(&clip.reference)).collect();
        let long: BTreeSet<String> = references
            .iter()
            .flatten()
            .filter(|word| word.len() >= HOTWORD_LETTERS)
            .cloned()
            .collect();
        let hotwords: BTreeSet<String> = long.into_iter().step_by(2).collect();
        let pairs: BTreeSet<String> = references
            .iter()
            .flat_map(|words| words.windows(2).map(|pair| pair.join(" ")))
            .filter(|pair| pair.len() >= PHRASE_LETTERS)
            .collect();
        let phrases: BTreeSet<String> = pairs.into_iter().step_by(4).collect();
        systems(bench, list, best, &hotwords);
        second_pass(bench, list);
        for (name, wanted) in [("words", &hotwords), ("phrases of two words", &phrases)] {
            println!(
                "\n{} {name} boosted:\n\n| boost | found | errors in other words | word errors |\n|---|---|---|---|",
                wanted.len()
            );
            for boost in BOOSTS {
                let outcome = bench.decode(list, &bench.boosted(wanted, boost));
                let (found, spoken, damage) = recall(list, &outcome.texts, wanted);
                let all = outcome.errors.iter().sum::<ErrorCounts>();
                println!(
                    "| {boost} | {:.1} % of {spoken} | {damage} | {} of {} |",
                    100.0 * found,
                    all.errors(),
                    all.reference_length
                );
            }
        }
    }
}

fn changes(bench: &Bench) {
    for list in &bench.lists {
        let greedy = bench.decode(list, &bench.greedy());
        let shipped = bench.decode(list, &bench.fused(Decoding::with_language_model()));
        let (mut unknown, mut before) = (0, 0);
        let strange = |text: &[String]| {
            text.iter()
                .filter(|word| !bench.language_model.knows(word))
                .count()
        };
        for (index, clip) in list.clips.iter().enumerate() {
            let (one, other) = (&greedy.texts[index], &shipped.texts[index]);
            before += strange(one);
            unknown += strange(other);
            if one != other {
                println!(
                    "{:+}\n  said    {}\n  greedy  {}\n  shipped {}",
                    shipped.errors[index].errors() as i64 - greedy.errors[index].errors() as i64,
                    normalise(&clip.reference).join(" "),
                    one.join(" "),
                    other.join(" ")
                );
            }
        }
        println!(
            "{}: words that the language model does not know: {before} of greedy's, {unknown} of the shipped settings'\n",
            list.name
        );
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["convert", arpa, out] => {
            let bytes = LanguageModel::load(Path::new(arpa))?.to_bytes();
            std::fs::write(out, &bytes).map_err(|error| format!("{out}: {error}"))?;
            println!("{out}: {} bytes", bytes.len());
        }
        ["report", rest @ ..] => report(&Bench::load(rest)?),
        ["tradeoff", rest @ ..] => tradeoff(&Bench::load(rest)?),
        ["choose", rest @ ..] => {
            Bench::load(rest)?.choose();
        }
        ["second-pass", rest @ ..] => {
            let bench = Bench::load(rest)?;
            bench.lists.iter().for_each(|list| second_pass(&bench, list));
        }
        ["changes", rest @ ..] => changes(&Bench::load(rest)?),
        _ => {
            let usage = "expected `convert ARPA OUT`, or `report`, `choose`, `second-pass`, `tradeoff` or `changes` with `MODEL_DIR LANGUAGE_MODEL CLIPS... [--keep DIR]`";
            return Err(usage.into());
        }
    }
    Ok(())
}
