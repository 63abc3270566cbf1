//! Makes a compact language model, and measures what one and hotwords do on real clips.
//!
//! ```text
//! cargo run --release --example language_model -- convert ARPA OUT
//! cargo run --release --example language_model -- report MODEL_DIR CLIPS_DIR LANGUAGE_MODEL [--width N]
//! cargo run --release --example language_model -- tradeoff MODEL_DIR CLIPS_DIR LANGUAGE_MODEL
//! ```
//!
//! `CLIPS_DIR` is as for `decoding_report`. The report chooses weight and word bonus on the even clips (counted from 0) and shows the
//! odd ones and all. Its hotwords are every second one, by alphabet, of the words of at least seven letters in the transcripts, its phrases every
//! fourth pair of neighbouring words; one list for all clips. `tradeoff` shows errors, time and how late words are stable, over the width of the beam, when
//! it settles, and the width of the second pass. Both are Markdown.
#![expect(clippy::print_stdout, reason = "the report is the output")]

mod clips;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clips::{Clip, stability};
use waxwing_model::ctc::{Hotword, Hotwords};
use waxwing_model::evaluation::{Edit, ErrorCounts, ErrorRate, Improvement, align, normalise, percentile};
use waxwing_model::language_model::LanguageModel;
use waxwing_model::model::Model;
use waxwing_model::transcript::{Decoding, Transcriber, TranscriberOptions};

const WEIGHTS: [f32; 6] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
const BONUSES: [f32; 5] = [0.0, 1.0, 2.0, 3.0, 4.0];
const UNKNOWN: [f32; 4] = [-5.0, -10.0, -15.0, -20.0];
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
const BOOSTS: [f32; 8] = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0];
const HOTWORD_LETTERS: usize = 7;
const SILENCE_SECONDS: usize = 3;
const PHRASE_LETTERS: usize = 8;

struct Bench {
    model: Model,
    clips: Vec<Clip>,
    /// Log-probs of each clip.
    heard: Vec<Vec<f32>>,
    audio_seconds: f64,
}

impl Bench {
    /// The words of each clip, and the seconds that all took.
    fn decode(&self, options: &TranscriberOptions) -> (Vec<Vec<String>>, f64) {
        let begin = Instant::now();
        let texts = self.heard.iter().map(|log_probs| {
            let tokens = Arc::clone(self.model.tokens());
            let mut transcriber =
                Transcriber::new(tokens, self.model.output_frame_seconds(), options.clone());
            let mut finals = Vec::new();
            transcriber.accept(log_probs, &mut finals);
            finals.extend(transcriber.finish());
            finals
                .into_iter()
                .flat_map(|utterance| utterance.words)
                .map(|word| word.word)
                .collect()
        });
        (texts.collect(), begin.elapsed().as_secs_f64())
    }

    fn errors(&self, texts: &[Vec<String>]) -> Vec<ErrorCounts> {
        let pairs = self.clips.iter().zip(texts);
        pairs
            .map(|(clip, text)| ErrorCounts::between(&normalise(&clip.reference), text))
            .collect()
    }

    /// Share of hotwords that are found, their number, and errors in all other words.
    fn recall(&self, texts: &[Vec<String>], hotwords: &BTreeSet<String>) -> (f64, usize, usize) {
        let (mut found, mut spoken, mut damage) = (0, 0, 0);
        for (clip, text) in self.clips.iter().zip(texts) {
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

    fn load(model: &Path, clips: &Path) -> Result<Self, Box<dyn Error>> {
        let model = Model::load(model)?;
        let clips = Clip::read_all(clips)?;
        let heard = clips
            .iter()
            .map(|clip| clip.hear(&model, SILENCE_SECONDS))
            .collect::<Result<Vec<_>, _>>()?;
        let audio_seconds = clips
            .iter()
            .map(|clip| clip.seconds() + SILENCE_SECONDS as f64)
            .sum();
        Ok(Self {
            model,
            clips,
            heard,
            audio_seconds,
        })
    }
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

fn tradeoff(bench: &Bench, language_model: &Arc<LanguageModel>) {
    let mut first: Option<Vec<ErrorCounts>> = None;
    println!(
        "| width | settles after, ms | second pass | word errors | better than the first row by, points | real-time factor | stable after, s: median (p95) |\n|---|---|---|---|---|---|---|"
    );
    for (beam_width, settle_ms, second_pass_width) in TRADEOFF {
        let options = TranscriberOptions {
            decoding: Decoding {
                beam_width,
                settle_ms,
                second_pass_width,
                ..Decoding::default()
            },
            language_model: Some(Arc::clone(language_model)),
            ..TranscriberOptions::default()
        };
        let (texts, seconds) = bench.decode(&options);
        let errors = bench.errors(&texts);
        let against = first.get_or_insert_with(|| errors.clone());
        let delays = bench
            .heard
            .iter()
            .flat_map(|heard| stability(&bench.model, heard, &options));
        let mut delays: Vec<f64> = delays
            .map(|frames| frames * bench.model.output_frame_seconds())
            .collect();
        println!(
            "| {beam_width} | {settle_ms} | {second_pass_width} | {} | {} | {:.5} | {:.2} ({:.2}) |",
            ErrorRate::of(&errors),
            gain(against, &errors),
            seconds / bench.audio_seconds,
            percentile(&mut delays, 50.0),
            percentile(&mut delays, 95.0),
        );
    }
}

fn half(errors: &[ErrorCounts], parity: usize) -> Vec<ErrorCounts> {
    errors.iter().skip(parity).step_by(2).copied().collect()
}

fn report(
    model: &Path,
    clips: &Path,
    language_model: &Path,
    beam_width: usize,
) -> Result<(), Box<dyn Error>> {
    let bench = Bench::load(model, clips)?;
    let begin = Instant::now();
    let language_model = Arc::new(LanguageModel::load(language_model)?);
    println!(
        "{:?}, loaded in {:.3} s; {} clips, beam width {beam_width}.\n",
        language_model.num_ngrams(),
        begin.elapsed().as_secs_f64(),
        bench.clips.len()
    );

    let beam = TranscriberOptions {
        decoding: Decoding {
            beam_width,
            ..Decoding::with_language_model()
        },
        ..TranscriberOptions::default()
    };
    let fused =
        |language_model_weight: f32, word_bonus: f32, unknown_word_log_prob: f32| TranscriberOptions {
            decoding: Decoding {
                language_model_weight,
                word_bonus,
                unknown_word_log_prob,
                ..beam.decoding
            },
            language_model: Some(Arc::clone(&language_model)),
            ..beam.clone()
        };
    println!("Errors on the even clips:");
    let mut best = (usize::MAX, 0.0, 0.0, 0.0);
    for unknown in UNKNOWN {
        let columns = BONUSES.map(|bonus| format!("bonus {bonus}"));
        println!(
            "\nAn unknown word at {unknown}:\n\n| weight | {} |\n|---|{}",
            columns.join(" | "),
            "---|".repeat(BONUSES.len())
        );
        for weight in WEIGHTS {
            let mut row = format!("| {weight} |");
            for bonus in BONUSES {
                let (texts, _) = bench.decode(&fused(weight, bonus, unknown));
                let errors = half(&bench.errors(&texts), 0)
                    .iter()
                    .sum::<ErrorCounts>()
                    .errors();
                row += &format!(" {errors} |");
                if errors < best.0 {
                    best = (errors, weight, bonus, unknown);
                }
            }
            println!("{row}");
        }
    }
    println!(
        "\nBest on the even clips: weight {}, bonus {}, unknown words at {}.\n",
        best.1, best.2, best.3
    );
    let shipped = Decoding::with_language_model();
    let with_model = fused(
        shipped.language_model_weight,
        shipped.word_bonus,
        shipped.unknown_word_log_prob,
    );
    let tuned = fused(best.1, best.2, best.3);

    let long: BTreeSet<String> = bench
        .clips
        .iter()
        .flat_map(|clip| normalise(&clip.reference))
        .filter(|word| word.len() >= HOTWORD_LETTERS)
        .collect();
    let hotwords: BTreeSet<String> = long.into_iter().step_by(2).collect();
    let pairs: BTreeSet<String> = bench
        .clips
        .iter()
        .flat_map(|clip| {
            normalise(&clip.reference)
                .windows(2)
                .map(|pair| pair.join(" "))
                .collect::<Vec<_>>()
        })
        .filter(|pair| pair.len() >= PHRASE_LETTERS)
        .collect();
    let phrases: BTreeSet<String> = pairs.into_iter().step_by(4).collect();
    let boosted = |hotwords: &BTreeSet<String>, boost: f32| {
        let list: Vec<Hotword> = hotwords
            .iter()
            .map(|text| Hotword {
                text: text.clone(),
                boost,
            })
            .collect();
        let (automaton, warnings) = Hotwords::new(bench.model.tokens(), &list);
        warnings.iter().for_each(|warning| println!("{warning}"));
        TranscriberOptions {
            hotwords: Some(Arc::new(automaton)),
            ..with_model.clone()
        }
    };
    let greedy = TranscriberOptions {
        decoding: Decoding {
            beam_width: 1,
            ..Decoding::default()
        },
        ..TranscriberOptions::default()
    };
    let systems = [
        ("greedy", greedy),
        ("beam", beam.clone()),
        ("beam + language model, best on the even clips", tuned),
        ("beam + language model, as shipped", with_model.clone()),
        (
            "beam + language model + hotwords",
            boosted(&hotwords, Hotwords::DEFAULT_BOOST),
        ),
    ];
    println!(
        "| decoder | odd clips | better than greedy by, points | all clips | better than greedy by, points | better than the row above by, points | real-time factor |\n|---|---|---|---|---|---|---|"
    );
    let (mut first, mut above): (Option<Vec<ErrorCounts>>, Vec<ErrorCounts>) = (None, Vec::new());
    for (name, options) in &systems {
        let (texts, seconds) = bench.decode(options);
        let errors = bench.errors(&texts);
        let against = first.get_or_insert_with(|| errors.clone());
        println!(
            "| {name} | {} | {} | {} | {} | {} | {:.5} |",
            ErrorRate::of(&half(&errors, 1)),
            gain(&half(against, 1), &half(&errors, 1)),
            ErrorRate::of(&errors),
            gain(against, &errors),
            gain(if above.is_empty() { against } else { &above }, &errors),
            seconds / bench.audio_seconds,
        );
        above = errors;
    }
    for (name, list) in [("words", &hotwords), ("phrases of two words", &phrases)] {
        println!(
            "\n{} {name} boosted:\n\n| boost | found | errors in other words | word errors |\n|---|---|---|---|",
            list.len()
        );
        for boost in BOOSTS {
            let (texts, _) = bench.decode(&boosted(list, boost));
            let (found, spoken, damage) = bench.recall(&texts, list);
            let all = bench.errors(&texts).iter().sum::<ErrorCounts>();
            println!(
                "| {boost} | {:.1} % of {spoken} | {damage} | {} of {} |",
                100.0 * found,
                all.errors(),
                all.reference_length
            );
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["convert", arpa, out] => {
            let bytes = LanguageModel::load(Path::new(arpa))?.to_bytes();
            std::fs::write(out, &bytes).map_err(|error| format!("{out}: {error}"))?;
            println!("{out}: {} bytes", bytes.len());
            Ok(())
        }
        ["report", model, clips, language_model] => {
            report(
            model.as_ref(),
            clips.as_ref(),
            language_model.as_ref(),
            Decoding::with_language_model().beam_width,
        )
        }
        ["report", model, clips, language_model, "--width", width] => report(
            model.as_ref(),
            clips.as_ref(),
            language_model.as_ref(),
            width.parse()?,
        ),
        ["tradeoff", model, clips, language_model] => {
            let bench = Bench::load(model.as_ref(), clips.as_ref())?;
            let language_model = Arc::new(LanguageModel::load(language_model.as_ref())?);
            tradeoff(&bench, &language_model);
            Ok(())
        }
        _ => Err(
            "expected `convert ARPA OUT` `report MODEL_DIR CLIPS_DIR LANGUAGE_MODEL [--width N]` or `tradeoff MODEL_DIR CLIPS_DIR LANGUAGE_MODEL`".into(),
        ),
    }
}
