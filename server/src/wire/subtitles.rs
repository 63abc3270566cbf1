//! Transcripts as plain text, SubRip (SRT) and WebVTT. Pure: utterances in, text out.
//!
//! A cue is what a viewer can read at a glance: at most two lines of 42 characters and seven seconds, broken only
//! between words and never across utterances. Of all ways to break an utterance so, the one with the fewest, evenly
//! filled cues is taken, and a break in a pause is worth some unevenness. A word that is longer than a line
//! stands alone on one.

use std::fmt::Write as _;

use super::native::written;
use crate::engine::{Utterance, Word};

/// Characters of a line.
const LINE_CHARACTERS: usize = 42;
/// Lines of a cue.
const CUE_LINES: usize = 2;
/// Seconds that a cue stays at most.
const CUE_SECONDS: f64 = 7.0;

/// What stands on the screen at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Cue {
    /// Seconds from the stream's first sample.
    pub start: f64,
    /// Seconds from the stream's first sample, after `start`.
    pub end: f64,
    /// One or two, not empty.
    pub lines: Vec<String>,
}

/// The transcript in one line, without a line end.
pub fn text(utterances: &[Utterance]) -> String {
    join(utterances, " ")
}

/// The transcript in one line as one would write it.
pub fn formatted(utterances: &[Utterance]) -> String {
    utterances.iter().map(written).collect::<Vec<_>>().join(" ")
}

/// As [`text_lines`], as one would write it.
pub fn formatted_lines(utterances: &[Utterance]) -> String {
    utterances
        .iter()
        .map(|utterance| written(utterance) + "\n")
        .collect()
}

/// The transcript with each utterance on a line of its own, each line ended.
pub fn text_lines(utterances: &[Utterance]) -> String {
    let mut lines = join(utterances, "\n");
    if !lines.is_empty() {
        lines.push('\n');
    }
    lines
}

/// The transcript as SubRip: UTF-8, cues counted from 1. Empty where nothing was said.
pub fn srt(utterances: &[Utterance]) -> String {
    let mut srt = String::new();
    for (number, cue) in (1..).zip(cues(utterances)) {
        let (start, end) = (Timestamp(cue.start, ','), Timestamp(cue.end, ','));
        // Writing into a `String` cannot fail.
        let _ = write!(srt, "{number}\n{start} --> {end}\n{}\n\n", cue.lines.join("\n"));
    }
    srt
}

/// The transcript as WebVTT. The header alone where nothing was said.
pub fn vtt(utterances: &[Utterance]) -> String {
    let mut vtt = String::from("WEBVTT\n\n");
    for cue in cues(utterances) {
        let (start, end) = (Timestamp(cue.start, '.'), Timestamp(cue.end, '.'));
        let text = cue
            .lines
            .join("\n")
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        let _ = write!(vtt, "{start} --> {end}\n{text}\n\n");
    }
    vtt
}

/// The cues of a transcript, in order and without overlap.
pub fn cues(utterances: &[Utterance]) -> Vec<Cue> {
    utterances
        .iter()
        .flat_map(|utterance| utterance_cues(&utterance.words))
        .collect()
}

fn join(utterances: &[Utterance], separator: &str) -> String {
    let texts: Vec<&str> = utterances
        .iter()
        .map(|utterance| utterance.text.as_str())
        .filter(|text| !text.is_empty())
        .collect();
    texts.join(separator)
}

/// Breaks the words of one utterance into cues, the cheapest way: dynamic programming over the places of the breaks.
fn utterance_cues(words: &[Word]) -> Vec<Cue> {
    // For each number of leading words: the least cost of showing them, and where the last cue begins then.
    let mut best: Vec<(f64, usize)> = vec![(0.0, 0)];
    for end in 1..=words.len() {
        let mut cheapest = (f64::INFINITY, end - 1);
        for start in (0..end).rev() {
            let Some(cue) = words.get(start..end) else { break };
            if !fits(cue) {
                break;
            }
            let before = best.get(start).map_or(f64::INFINITY, |(cost, _)| *cost);
            let cost = before + cue_cost(cue) - pause_worth(words, start);
            if cost < cheapest.0 {
                cheapest = (cost, start);
            }
        }
        best.push(cheapest);
    }

    let mut cues = Vec::new();
    let mut end = words.len();
    while let Some(&(_, start)) = best.get(end).filter(|_| end > 0) {
        cues.extend(words.get(start..end).and_then(make_cue));
        end = start;
    }
    cues.reverse();
    cues
}

/// A single word always fits: it cannot be broken.
fn fits(words: &[Word]) -> bool {
    let [first, .., last] = words else { return true };
    last.end - first.start <= CUE_SECONDS && wrap(words, LINE_CHARACTERS).len() <= CUE_LINES
}

/// One for the cue itself, so that few are best, and less than one for its fill, squared so that even ones are.
fn cue_cost(words: &[Word]) -> f64 {
    let fill = num_characters(words) as f64 / (LINE_CHARACTERS * CUE_LINES) as f64;
    1.0 + fill * fill
}

/// What a break before the word at `index` is worth: up to 0.5 for a pause of a second.
fn pause_worth(words: &[Word], index: usize) -> f64 {
    match index
        .checked_sub(1)
        .and_then(|before| Some((words.get(before)?, words.get(index)?)))
    {
        Some((before, after)) => 0.5 * (after.start - before.end).clamp(0.0, 1.0),
        None => 0.0,
    }
}

fn make_cue(words: &[Word]) -> Option<Cue> {
    let (first, last) = (words.first()?, words.last()?);
    let end = last.end.min(first.start + CUE_SECONDS).max(first.start);
    Some(Cue {
        start: first.start,
        end,
        lines: balanced_lines(words),
    })
}

/// As few lines as possible, then as even as possible: the narrowest width that needs no further line.
fn balanced_lines(words: &[Word]) -> Vec<String> {
    let num_lines = wrap(words, LINE_CHARACTERS).len();
    (1..LINE_CHARACTERS)
        .map(|width| wrap(words, width))
        .find(|lines| lines.len() <= num_lines)
        .unwrap_or_else(|| wrap(words, LINE_CHARACTERS))
}

/// Fills lines from the left; a word longer than the width stands alone.
fn wrap(words: &[Word], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut length = 0;
    for Word { word, .. } in words {
        let characters = word.chars().count();
        match lines.last_mut() {
            Some(line) if length + 1 + characters <= width => {
                line.push(' ');
                line.push_str(word);
                length += 1 + characters;
            }
            _ => {
                lines.push(word.clone());
                length = characters;
            }
        }
    }
    lines
}

fn num_characters(words: &[Word]) -> usize {
    words
        .iter()
        .map(|word| word.word.chars().count() + 1)
        .sum::<usize>()
        .saturating_sub(1)
}

/// Seconds as `hh:mm:ss,mmm`, with the mark before the milliseconds; hours have two digits or more.
struct Timestamp(f64, char);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The cast saturates: a negative time or one that is not a number is 0.
        let milliseconds = (self.0 * 1000.0).round() as u64;
        let (seconds, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        let (hours, minutes) = (minutes / 60, minutes % 60);
        write!(
            f,
            "{hours:02}:{minutes:02}:{seconds:02}{}{milliseconds:03}",
            self.1
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Words of `seconds` each, a tenth of a second between them.
    fn utterance(text: &str, start: f64, seconds: f64) -> Utterance {
        let mut time = start;
        let words: Vec<Word> = text
            .split(' ')
            .map(|word| {
                let start = time;
                time += seconds + 0.1;
                Word {
                    word: word.to_owned(),
                    start,
                    end: start + seconds,
                    confidence: 0.9,
                }
            })
            .collect();
        Utterance {
            utterance: 0,
            start,
            end: words[words.len() - 1].end,
            text: text.to_owned(),
            stable_words: words.len(),
            words,
            confidence: 0.9,
            audio_processed: 0.0,
            alternatives: Vec::new(),
        }
    }

    fn lines(utterances: &[Utterance]) -> Vec<Vec<String>> {
        cues(utterances).into_iter().map(|cue| cue.lines).collect()
    }

    #[test]
    fn texts_join_utterances() {
        let both = [
            utterance("and mister john", 0.0, 0.3),
            utterance("went home", 5.0, 0.3),
        ];
        assert_eq!(text(&both), "and mister john went home");
        assert_eq!(text_lines(&both), "and mister john\nwent home\n");
        assert_eq!((text(&[]), text_lines(&[])), (String::new(), String::new()));
    }

    #[test]
    fn srt_and_vtt_of_short_utterances() {
        let both = [
            utterance("one two", 0.32, 0.5),
            utterance("r & b <3", 3599.9996, 0.2),
        ];
        insta::assert_snapshot!(srt(&both), @r"
        1
        00:00:00,320 --> 00:00:01,420
        one two

        2
        01:00:00,000 --> 01:00:01,100
        r & b <3
        ");
        insta::assert_snapshot!(vtt(&both), @r"
        WEBVTT

        00:00:00.320 --> 00:00:01.420
        one two

        01:00:00.000 --> 01:00:01.100
        r &amp; b &lt;3
        ");
        assert!(
            srt(&both).ends_with("<3\n\n"),
            "each cue is ended by an empty line"
        );
    }

    #[test]
    fn nothing_said_gives_valid_files() {
        assert_eq!(srt(&[]), "");
        assert_eq!(vtt(&[]), "WEBVTT\n\n");
    }

    #[test]
    fn long_lines_are_broken_evenly() {
        let one = utterance("the quick brown fox jumps over the lazy dog and runs", 0.0, 0.2);
        assert_eq!(
            lines(&[one]),
            [["the quick brown fox jumps", "over the lazy dog and runs"]]
        );
    }

    #[test]
    fn long_utterances_become_even_cues() {
        let text = "please enter your agent number followed by the pound key or hold the line and we will be with you soon";
        let cues = lines(&[utterance(text, 0.0, 0.1)]);
        assert_eq!(
            cues,
            [
                ["please enter your agent", "number followed by the pound"],
                ["key or hold the line and", "we will be with you soon"],
            ]
        );
    }

    #[test]
    fn a_pause_is_a_good_place_for_a_break() {
        let text = "please enter your agent number followed by the pound key or hold the line and we will be with you";
        let mut with_pause = utterance(text, 0.0, 0.1);
        // A pause of 0.7 s before "or".
        with_pause.words[10..].iter_mut().for_each(|word| {
            word.start += 0.6;
            word.end += 0.6;
        });
        let cues = lines(&[with_pause]);
        assert_eq!(
            cues[0].join(" "),
            "please enter your agent number followed by the pound key"
        );
    }

    #[test]
    fn slow_speech_is_broken_after_seven_seconds() {
        let slow = cues(&[utterance("one two three four five six", 0.0, 1.9)]);
        assert_eq!(slow.len(), 2);
        assert!(slow.iter().all(|cue| cue.end - cue.start <= CUE_SECONDS));
        let endless = cues(&[utterance("hmm", 1.0, 30.0)]);
        assert_eq!((endless[0].start, endless[0].end), (1.0, 8.0));
    }

    #[test]
    fn words_longer_than_a_line_stand_alone() {
        let long = "a".repeat(60);
        assert_eq!(
            lines(&[utterance(&format!("so {long} it is"), 0.0, 0.2)]).concat(),
            ["so", &long, "it is"]
        );
    }

    #[test]
    fn long_recordings_have_three_digits_of_hours() {
        assert_eq!(Timestamp(360_000.5, ',').to_string(), "100:00:00,500");
        assert_eq!(Timestamp(-1.0, ',').to_string(), "00:00:00,000");
    }

    proptest! {
        /// Whatever is said: no word is lost, no line or cue is too long, no cue overlaps the next.
        #[test]
        fn cues_keep_their_promises(
            words in prop::collection::vec(("[a-zé]{1,15}", 0.02..3.0f64, 0.0..1.5f64), 1..60),
        ) {
            let text: Vec<_> = words.iter().map(|(word, ..)| word.as_str()).collect();
            let mut all = utterance(&text.join(" "), 0.0, 0.1);
            let mut time = 0.0;
            for (word, (_, seconds, pause)) in all.words.iter_mut().zip(&words) {
                word.start = time + pause;
                word.end = word.start + seconds;
                time = word.end;
            }
            let cues = cues(&[all]);
            let shown: Vec<_> = cues.iter().flat_map(|cue| &cue.lines).map(String::as_str).collect();
            prop_assert_eq!(shown.join(" "), text.join(" "));
            for cue in &cues {
                prop_assert!(cue.lines.len() <= CUE_LINES);
                prop_assert!(cue.lines.iter().all(|line| line.chars().count() <= LINE_CHARACTERS));
                prop_assert!(cue.end > cue.start && cue.end - cue.start <= CUE_SECONDS);
            }
            prop_assert!(cues.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
