//! Measures a model on real clips as a live session hears them: word error rate, where utterances end too early for
//! each setting of the silence, and how long a final takes.
//!
//! ```text
//! cargo run --release -p waxwing-model --example endpoint_report -- MODEL_DIR CLIPS_DIR [--list] [--against MODEL_DIR]
//! ```
//!
//! `CLIPS_DIR` holds audio files and `text.tsv`: on each line a file name, a tab, and what is said in it. Every clip is a
//! session of its own; noise as loud as the clip's quietest tenth follows it, so that there is a pause to end
//! the last utterance. The encoder runs once a clip, segment by segment, and its log-probs are decoded anew for each
//! setting. `--list` shows every endpoint inside a clip, `--against` compares with a second model clip by clip.
//! The report is Markdown.
#![expect(clippy::print_stdout, reason = "the report is the output")]

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use waxwing_frontend::container::{AudioFile, DecodeLimits};
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_frontend::{Frontend, FrontendConfig};
use waxwing_model::encoder::StepRow;
use waxwing_model::evaluation::{ErrorCounts, ErrorRate, Improvement, normalise, percentile};
use waxwing_model::model::Model;
use waxwing_model::transcript::{Endpointing, Transcriber, TranscriberOptions, Utterance};

const SILENCES_MS: [u32; 7] = [200, 300, 500, 650, 800, 1000, 1200];
/// Longer than twice the longest silence with any model's delays.
const TAIL_SECONDS: u64 = 5;

struct Arguments {
    model: PathBuf,
    clips: PathBuf,
    list: bool,
    against: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let (mut paths, mut list, mut against) = (Vec::new(), false, None);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => list = true,
                "--against" => against = Some(arguments.next().ok_or("--against needs a directory")?.into()),
                _ => paths.push(PathBuf::from(argument)),
            }
        }
        let [model, clips] =
            <[PathBuf; 2]>::try_from(paths).map_err(|_| "expected MODEL_DIR and CLIPS_DIR")?;
        Ok(Self {
            model,
            clips,
            list,
            against,
        })
    }
}

/// What is said in a file.
struct Clip {
    file: String,
    reference: String,
    rate_hz: u32,
    samples: Vec<f32>,
}

impl Clip {
    fn read_all(directory: &Path) -> Result<Vec<Self>, Box<dyn Error>> {
        let manifest = fs::read_to_string(directory.join("text.tsv"))?;
        manifest
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (file, reference) = line
                    .split_once('\t')
                    .ok_or_else(|| format!("text.tsv: no tab in `{line}`"))?;
                Self::read(&directory.join(file), reference)
                    .map_err(|error| format!("{file}: {error}").into())
            })
            .collect()
    }

    fn read(path: &Path, reference: &str) -> Result<Self, Box<dyn Error>> {
        let mut audio = AudioFile::open(File::open(path)?, DecodeLimits::default(), ChannelSelection::Mix)?;
        let mut samples = Vec::new();
        while audio.next_block(&mut samples)? {}
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            file,
            reference: reference.to_owned(),
            rate_hz: audio.rate_hz(),
            samples,
        })
    }

    fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate_hz)
    }

    /// Loudness of each 10 ms, as root mean square.
    fn levels(&self) -> Vec<f64> {
        let level = |block: &[f32]| {
            let energy: f64 = block.iter().map(|&sample| f64::from(sample).powi(2)).sum();
            (energy / block.len() as f64).sqrt()
        };
        self.samples
            .chunks(self.rate_hz as usize / 100)
            .map(level)
            .collect()
    }

    /// Where the last sound within 35 dB of the loudest ends, in seconds: the end of speech in a clean clip.
    fn sound_end(&self) -> f64 {
        let levels = self.levels();
        let loudest = levels.iter().copied().fold(0.0, f64::max);
        let last = levels
            .iter()
            .rposition(|level| *level > loudest * 10f64.powf(-35.0 / 20.0));
        last.map_or(0.0, |block| (block + 1) as f64 * 0.01)
    }

    /// The clip and after it white noise at the level of its quietest tenth.
    fn with_tail(&self) -> Vec<f32> {
        let level = percentile(&mut self.levels(), 10.0);
        let amplitude = if level.is_finite() {
            (level * 3f64.sqrt()) as f32
        } else {
            0.0
        };
        let mut state = 0x2545_f491u32;
        let noise = (0..TAIL_SECONDS * u64::from(self.rate_hz)).map(|_| {
            // Marsaglia's xorshift; uniform, so its level is the amplitude over the root of three.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            amplitude * (state as f32 / (u32::MAX / 2) as f32 - 1.0)
        });
        self.samples.iter().copied().chain(noise).collect()
    }
}

/// A clip's log-probs, step by step, with the audio that had to be there for each.
struct Heard {
    steps: Vec<(f64, Vec<f32>)>,
}

impl Heard {
    fn hear(model: &Model, clip: &Clip) -> Result<Self, Box<dyn Error>> {
        let mut frontend = Frontend::new(FrontendConfig {
            input_rate_hz: clip.rate_hz,
            model_rate_hz: model.sample_rate_hz(),
            features: model.features().clone(),
        })?;
        let samples = clip.with_tail();
        let mut rest = samples.as_slice();
        let mut state = model.new_state();
        let mut features = Vec::new();
        let mut steps = Vec::new();
        loop {
            let frames = model.geometry().frames_needed(steps.len() as u64);
            let needed = usize::try_from(frontend.samples_needed_for(frames as u64))?;
            let Some((now, later)) = rest.split_at_checked(needed) else {
                break;
            };
            rest = later;
            features.clear();
            frontend.push(now, &mut features);
            let mut output = Vec::new();
            model.step(&mut [StepRow {
                state: &mut state,
                features: &features,
                output: &mut output,
            }])?;
            steps.push((
                frontend.samples_received() as f64 / f64::from(clip.rate_hz),
                output,
            ));
        }
        Ok(Self { steps })
    }

    /// Each utterance with the audio, in seconds, after which it was final; `None` for what only the end of the
    /// stream made final.
    fn decode(&self, model: &Model, endpointing: Endpointing) -> Vec<(Utterance, Option<f64>)> {
        let options = TranscriberOptions {
            endpointing,
            ..TranscriberOptions::default()
        };
        let tokens = Arc::clone(model.tokens());
        let mut transcriber = Transcriber::new(tokens, model.output_frame_seconds(), options);
        let mut utterances = Vec::new();
        for (seconds, log_probs) in &self.steps {
            let mut finals = Vec::new();
            transcriber.accept(log_probs, &mut finals);
            utterances.extend(finals.into_iter().map(|utterance| (utterance, Some(*seconds))));
        }
        utterances.extend(transcriber.finish().map(|utterance| (utterance, None)));
        utterances
    }
}

/// A model and what it heard in each clip.
struct Listener {
    model: Model,
    heard: Vec<Heard>,
    seconds: f64,
}

impl Listener {
    fn new(directory: &Path, clips: &[Clip]) -> Result<Self, Box<dyn Error>> {
        let model = Model::load(directory)?;
        let begin = Instant::now();
        let heard = clips
            .iter()
            .map(|clip| Heard::hear(&model, clip))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            model,
            heard,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }

    fn texts(&self, endpointing: Endpointing) -> Vec<String> {
        let text = |heard: &Heard| {
            let utterances = heard.decode(&self.model, endpointing);
            utterances
                .iter()
                .map(|(utterance, _)| utterance.text())
                .collect::<Vec<_>>()
                .join(" ")
        };
        self.heard.iter().map(text).collect()
    }

    fn word_errors(&self, clips: &[Clip], endpointing: Endpointing) -> Vec<ErrorCounts> {
        let texts = self.texts(endpointing);
        clips
            .iter()
            .zip(&texts)
            .map(|(clip, text)| ErrorCounts::of_words(&clip.reference, text))
            .collect()
    }
}

/// What one setting of the silence does to all clips.
#[derive(Default)]
struct Outcome {
    utterances: usize,
    clips_split: usize,
    /// Endpoints by silence with words after them in the same clip.
    inside_clips: usize,
    /// Cuts for length.
    cuts: usize,
    /// Those where the next utterance begins with a token that continues a word.
    inside_words_by_tokens: usize,
    /// Those where joining the words on both sides takes errors away.
    inside_words_by_reference: usize,
    /// From the last word's end, as the model has it, to its final.
    delays: Vec<f64>,
    /// From the end of the clip's sound to its last final.
    delays_of_sound: Vec<f64>,
    list: Vec<String>,
}

impl Outcome {
    fn of(listener: &Listener, clips: &[Clip], endpointing: Endpointing) -> Self {
        let mut outcome = Self::default();
        for (clip, heard) in clips.iter().zip(&listener.heard) {
            let utterances = heard.decode(&listener.model, endpointing);
            outcome.add(&listener.model, clip, endpointing.silence_ms, &utterances);
        }
        outcome
    }

    fn add(&mut self, model: &Model, clip: &Clip, silence_ms: u32, utterances: &[(Utterance, Option<f64>)]) {
        let frame_seconds = model.output_frame_seconds();
        self.utterances += utterances.len();
        self.clips_split += usize::from(utterances.len() > 1);
        for (utterance, final_at) in utterances {
            self.delays
                .extend(final_at.map(|final_at| final_at - utterance.end as f64 * frame_seconds));
        }
        if let Some((_, Some(final_at))) = utterances.last() {
            self.delays_of_sound.push(final_at - clip.sound_end());
        }
        let reference = normalise(&clip.reference);
        let words: Vec<&str> = utterances
            .iter()
            .flat_map(|(utterance, _)| &utterance.words)
            .map(|word| &*word.word)
            .collect();
        let mut index = 0;
        for pair in utterances.windows(2) {
            let [(before, _), (after, _)] = pair else { continue };
            index += before.words.len();
            let continues_word = after
                .tokens
                .first()
                .is_some_and(|token| !model.tokens().begins_word(token.id));
            let splits_word = joining_helps(&reference, &words, index);
            let last_letter = before.tokens.last().map_or(before.end, |token| token.end);
            let pause = (after.start - last_letter) as f64 * frame_seconds;
            let is_cut = pause < f64::from(silence_ms) / 1000.0 - frame_seconds;
            self.cuts += usize::from(is_cut);
            self.inside_clips += usize::from(!is_cut);
            self.inside_words_by_tokens += usize::from(continues_word);
            self.inside_words_by_reference += usize::from(splits_word);
            let marks = [
                (continues_word, " [continues a word]"),
                (splits_word, " [splits a word]"),
            ];
            self.list.push(format!(
                "{}: {} | {} ({pause:.2} s without a letter){}",
                clip.file,
                before.text(),
                after.text(),
                marks
                    .iter()
                    .filter(|(is_so, _)| *is_so)
                    .map(|(_, mark)| *mark)
                    .collect::<String>(),
            ));
        }
    }
}

/// Whether the words before and at `index`, written as one, have fewer errors than as two.
fn joining_helps(reference: &[String], words: &[&str], index: usize) -> bool {
    let (Some(head), Some([before, after])) = (words.get(..index - 1), words.get(index - 1..index + 1))
    else {
        return false;
    };
    let mut joined: Vec<String> = head.iter().map(|word| (*word).to_owned()).collect();
    joined.push(format!("{before}{after}"));
    joined.extend(words.iter().skip(index + 1).map(|word| (*word).to_owned()));
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    ErrorCounts::between(reference, &joined).errors() < ErrorCounts::between(reference, &words).errors()
}

/// "median (95th percentile)".
fn median_and_tail(seconds: &[f64]) -> String {
    let mut seconds = seconds.to_vec();
    format!(
        "{:.2} ({:.2})",
        percentile(&mut seconds, 50.0),
        percentile(&mut seconds, 95.0)
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let clips = Clip::read_all(&arguments.clips)?;
    let listener = Listener::new(&arguments.model, &clips)?;
    let model = &listener.model;
    let audio_seconds: f64 = clips.iter().map(Clip::seconds).sum();
    let latency = model.latency();

    println!(
        "Model `{}`: segments of {} ms, {} ms past their end, output frames of {:.0} ms. {} clips, {:.0} s; \
              with {TAIL_SECONDS} s of pause after each, heard in {:.0} s.\n",
        model.id(),
        latency.segment.as_millis(),
        latency.right_context.as_millis(),
        model.output_frame_seconds() * 1000.0,
        clips.len(),
        audio_seconds,
        listener.seconds,
    );

    let default = Endpointing::default();
    let errors = listener.word_errors(&clips, default);
    println!("Word error rate, streamed, greedy: {}.", ErrorRate::of(&errors));
    let characters: ErrorCounts = clips
        .iter()
        .zip(listener.texts(default))
        .map(|(clip, text)| ErrorCounts::of_characters(&clip.reference, &text))
        .sum();
    println!(
        "Character error rate: {:.1} % of {}.\n",
        100.0 * characters.rate(),
        characters.reference_length
    );

    println!(
        "| silence_ms | utterances | clips split | endpoints by silence inside clips | cuts for length | inside words: by tokens / by reference \
              | WER % | final after word, s: median (p95) | after sound | published: expected / latest |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for silence_ms in SILENCES_MS {
        let endpointing = Endpointing {
            silence_ms,
            ..default
        };
        let outcome = Outcome::of(&listener, &clips, endpointing);
        let rate = listener
            .word_errors(&clips, endpointing)
            .iter()
            .sum::<ErrorCounts>()
            .rate();
        let published = endpointing.final_delay(latency.segment, latency.right_context);
        println!(
            "| {silence_ms} | {} | {} | {} | {} | {} / {} | {:.1} | {} | {} | {} |",
            outcome.utterances,
            outcome.clips_split,
            outcome.inside_clips,
            outcome.cuts,
            outcome.inside_words_by_tokens,
            outcome.inside_words_by_reference,
            100.0 * rate,
            median_and_tail(&outcome.delays),
            median_and_tail(&outcome.delays_of_sound),
            published.map_or("never".to_owned(), |delay| {
                let seconds = |duration: Duration| duration.as_secs_f64();
                format!("{:.2} / {:.2}", seconds(delay.expected), seconds(delay.latest))
            }),
        );
        if arguments.list {
            outcome.list.iter().for_each(|line| println!("<!-- {line} -->"));
        }
    }

    if let Some(other) = &arguments.against {
        let other = Listener::new(other, &clips)?;
        let other_errors = other.word_errors(&clips, default);
        println!(
            "\nAgainst `{}`: {}.",
            other.model.id(),
            ErrorRate::of(&other_errors)
        );
        let Improvement {
            difference,
            low,
            high,
            probability,
        } = Improvement::between(&other_errors, &errors);
        println!(
            "`{}` is better by {:.1} points (95 % interval {:.1} to {:.1}, better in {:.1} % of the bootstrap).",
            model.id(),
            100.0 * difference,
            100.0 * low,
            100.0 * high,
            100.0 * probability,
        );
    }
    if arguments.list {
        println!();
        for ((clip, text), counts) in clips.iter().zip(listener.texts(default)).zip(&errors) {
            println!(
                "* {} ({} of {}): {} → {text}",
                clip.file,
                counts.errors(),
                counts.reference_length,
                clip.reference
            );
        }
    }
    Ok(())
}
