//! Where a text that somebody else found lies in the frames of a CTC head, and how probable the frames make it.
//!
//! A text can be spelled by many sequences of tokens. All of them form a lattice: its positions are the text's letters, its edges the tokens that spell
//! what lies between two positions. The probability of the text is the sum over all paths of frames through it (Graves et al.,
//! "Connectionist Temporal Classification", ICML 2006, §4.1, over a lattice instead of one sequence); the most probable path says when each token was
//! said.

use crate::hypothesis::EmittedToken;
use crate::tokens::{Tokens, WORD_BOUNDARY};

/// Probability mass of a frame that the classes which were not tried share at least.
const LEAST_REST: f64 = 1e-6;

/// A text in its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aligned {
    /// The tokens of the most probable path.
    pub(crate) tokens: Vec<EmittedToken>,
    /// Natural log of the probability of all paths.
    pub(crate) log_prob: f64,
}

/// A token between two positions of the text.
#[derive(Debug, Clone, Copy)]
struct Edge {
    from: usize,
    to: usize,
    token: u32,
}

/// A state before the first frame.
const NOWHERE: u32 = u32::MAX;

/// Probabilities of all states behind a frame, scaled: first those that sound, one for each edge, then those in a blank, one for each position.
struct States {
    /// Of all paths.
    sums: Vec<f64>,
    /// Of the best one.
    best: Vec<f64>,
}

impl States {
    fn new(len: usize) -> Self {
        Self {
            sums: vec![0.0; len],
            best: vec![0.0; len],
        }
    }
}

/// All ways to spell a text.
struct Lattice {
    edges: Vec<Edge>,
    /// Edges that end at each position.
    into: Vec<Vec<usize>>,
}

impl Lattice {
    fn new(tokens: &Tokens, text: &str, sounding: Option<u32>) -> Self {
        let letters: String = text
            .split_whitespace()
            .flat_map(|word| {
                [WORD_BOUNDARY.encode_utf8(&mut [0; 4]), word]
                    .concat()
                    .chars()
                    .collect::<Vec<_>>()
            })
            .collect();
        let names: Vec<(u32, String)> = (0..tokens.len() as u32)
            .filter(|&id| id != tokens.blank())
            .map(|id| {
                let begin = if tokens.begins_word(id) { "▁" } else { "" };
                (id, format!("{begin}{}", tokens.spelling(id)))
            })
            .filter(|(_, name)| !name.is_empty())
            .collect();
        // What sounds when the first frame comes is no part of the text.
        let mut edges: Vec<Edge> = sounding
            .map(|token| Edge {
                from: 0,
                to: 0,
                token,
            })
            .into_iter()
            .collect();
        for (from, _) in letters.char_indices() {
            let rest = &letters[from..];
            let fitting = names.iter().filter(|(_, name)| rest.starts_with(name.as_str()));
            edges.extend(fitting.map(|(token, name)| Edge {
                from,
                to: from + name.len(),
                token: *token,
            }));
        }
        let mut into = vec![Vec::new(); letters.len() + 1];
        for (index, edge) in edges.iter().enumerate() {
            into[edge.to].push(index);
        }
        Self { edges, into }
    }

    fn blank(&self, position: usize) -> usize {
        self.edges.len() + position
    }

    fn len(&self) -> usize {
        self.edges.len() + self.into.len()
    }

    /// The states that an edge's first frame may follow.
    fn before(&self, edge: Edge) -> impl Iterator<Item = usize> + '_ {
        let others = self.into[edge.from].iter().copied();
        let others = others.filter(move |&other| self.edges[other].token != edge.token);
        others.chain([self.blank(edge.from)])
    }

    /// One frame: `probability` of each class, `came_from` gets the state before each state on its best path.
    fn step(
        &self,
        before: &States,
        behind: &mut States,
        blank: f64,
        probability: &[f64],
        came_from: &mut Vec<u32>,
    ) {
        let mut enter = |state: usize, from: &mut dyn Iterator<Item = usize>, probability: f64| {
            let (mut sum, mut best, mut origin) = (before.sums[state], before.best[state], state);
            for other in from {
                sum += before.sums[other];
                if before.best[other] > best {
                    (best, origin) = (before.best[other], other);
                }
            }
            behind.sums[state] = sum * probability;
            behind.best[state] = best * probability;
            came_from.push(origin as u32);
        };
        for (index, &edge) in self.edges.iter().enumerate() {
            let is_old = edge.from == edge.to;
            let probability = probability[edge.token as usize];
            if is_old {
                enter(index, &mut std::iter::empty(), probability);
            } else {
                enter(index, &mut self.before(edge), probability);
            }
        }
        for (position, into) in self.into.iter().enumerate() {
            enter(self.blank(position), &mut into.iter().copied(), blank);
        }
    }
}

/// Aligns `text`, words with blanks between, to frames of classes and their natural log-probs: those that were tried; the others share what is left. The
/// first of them is output frame `first`, and `sounding` a token whose run may reach into it. `None` for a text that the tokens cannot spell or that the frames have no room for.
pub(crate) fn align<'a>(
    tokens: &Tokens,
    text: &str,
    sounding: Option<u32>,
    first: u64,
    frames: impl Iterator<Item = &'a [(u32, f32)]>,
) -> Option<Aligned> {
    let lattice = Lattice::new(tokens, text, sounding);
    let (mut before, mut behind) = (States::new(lattice.len()), States::new(lattice.len()));
    let start = if sounding.is_some() { 0 } else { lattice.blank(0) };
    (before.sums[start], before.best[start]) = (1.0, 1.0);
    let (mut came_from, mut log_scale) = (Vec::new(), 0.0);
    let mut probability = vec![0.0; tokens.len()];
    let mut log_probs: Vec<f32> = Vec::new();
    for tried in frames {
        let known: f64 = tried.iter().map(|&(_, log_prob)| f64::from(log_prob).exp()).sum();
        let others = (tokens.len() - tried.len().min(tokens.len())).max(1) as f64;
        probability.fill((1.0 - known).max(LEAST_REST) / others);
        for &(class, log_prob) in tried {
            if let Some(place) = probability.get_mut(class as usize) {
                *place = f64::from(log_prob).exp();
            }
        }
        let blank = probability[tokens.blank() as usize];
        lattice.step(&before, &mut behind, blank, &probability, &mut came_from);
        log_probs.extend(probability.iter().map(|value| value.ln() as f32));
        let scale = behind.sums.iter().copied().fold(0.0, f64::max);
        if scale <= 0.0 || !scale.is_finite() {
            return None;
        }
        log_scale += scale.ln();
        behind
            .sums
            .iter_mut()
            .chain(&mut behind.best)
            .for_each(|value| *value /= scale);
        std::mem::swap(&mut before, &mut behind);
    }
    let end = lattice.into.len() - 1;
    let last = lattice.into[end].iter().copied().chain([lattice.blank(end)]);
    let total: f64 = last.clone().map(|state| before.sums[state]).sum();
    let state = last.max_by(|&a, &b| before.best[a].total_cmp(&before.best[b]))?;
    (before.best[state] > 0.0).then(|| Aligned {
        tokens: trace(&lattice, tokens.len(), state, first, &came_from, &log_probs),
        log_prob: total.ln() + log_scale,
    })
}

/// Follows the best path back from its last state.
fn trace(
    lattice: &Lattice,
    classes: usize,
    last: usize,
    first: u64,
    came_from: &[u32],
    log_probs: &[f32],
) -> Vec<EmittedToken> {
    let mut found: Vec<EmittedToken> = Vec::new();
    let (mut state, mut later) = (last as u32, NOWHERE);
    let steps = came_from
        .chunks_exact(lattice.len())
        .zip(log_probs.chunks_exact(classes))
        .enumerate();
    for (index, (came_from, log_probs)) in steps.rev() {
        if let Some(edge) = lattice
            .edges
            .get(state as usize)
            .filter(|edge| edge.from < edge.to)
        {
            let (frame, log_posterior) = (first + index as u64, log_probs[edge.token as usize]);
            match found.last_mut().filter(|_| later == state) {
                Some(token) => {
                    token.start = frame;
                    token.log_posterior = token.log_posterior.max(log_posterior);
                }
                None => found.push(EmittedToken {
                    id: edge.token,
                    start: frame,
                    end: frame + 1,
                    log_posterior,
                }),
            }
        }
        later = state;
        state = came_from[state as usize];
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ctc::collapse;

    fn tokens() -> Tokens {
        Tokens::parse("<blank>\n▁a\nb\n▁\na\nab\n").unwrap()
    }

    fn spelled(tokens: &Tokens, path: &[u32]) -> String {
        let mut text = String::new();
        for id in path {
            if tokens.begins_word(*id) && !text.is_empty() {
                text.push(' ');
            }
            text.push_str(tokens.spelling(*id));
        }
        text.trim().to_owned()
    }

    /// All paths of so many frames.
    fn paths(classes: u32, frames: usize) -> Vec<Vec<u32>> {
        (0..frames).fold(vec![Vec::new()], |paths, _| {
            let longer = |path: &Vec<u32>| {
                (0..classes)
                    .map(|class| [path.as_slice(), &[class]].concat())
                    .collect::<Vec<_>>()
            };
            paths.iter().flat_map(longer).collect()
        })
    }

    proptest! {
        /// The probability is the sum over all paths that spell the text, and the path is the best of them.
        #[test]
        fn sums_all_paths(
            weights in prop::collection::vec(prop::collection::vec(0.01_f64..1.0, 6), 4),
            text in prop::sample::select(vec!["a", "ab", "a b", "ab a", "a a", "aab"]),
        ) {
            let tokens = tokens();
            let frames: Vec<Vec<(u32, f32)>> = weights.iter().map(|frame| {
                let sum: f64 = frame.iter().sum();
                (0..).zip(frame).map(|(class, weight)| (class, (weight / sum).ln() as f32)).collect()
            }).collect();
            let probability = |path: &Vec<u32>| path.iter().zip(&frames).map(|(&class, frame)| f64::from(frame[class as usize].1)).sum::<f64>();
            let fitting: Vec<Vec<u32>> = paths(6, 4).into_iter().filter(|path| {
                let said: Vec<u32> = collapse(path, 0);
                // Every word begins with a boundary, so that a boundary without letters is none.
                let names: String = said.iter().map(|&id| format!("{}{}", if tokens.begins_word(id) { "▁" } else { "" }, tokens.spelling(id))).collect();
                names == text.split(' ').map(|word| format!("▁{word}")).collect::<String>()
            }).collect();
            let found = align(&tokens, text, None, 0, frames.iter().map(Vec::as_slice));
            let expected: f64 = fitting.iter().map(|path| probability(path).exp()).sum();
            if fitting.is_empty() {
                prop_assert!(found.is_none());
            } else {
                let found = found.unwrap();
                prop_assert!((found.log_prob - expected.ln()).abs() < 1e-4, "{} {}", found.log_prob, expected.ln());
                let ids: Vec<u32> = found.tokens.iter().map(|token| token.id).collect();
                prop_assert_eq!(spelled(&tokens, &ids), text);
                let best = fitting.iter().map(probability).fold(f64::NEG_INFINITY, f64::max);
                // The runs of the found tokens, blanks between, are a path that is as good.
                let mut path = vec![0; 4];
                for token in &found.tokens {
                    path[token.start as usize..token.end as usize].fill(token.id);
                }
                prop_assert!((probability(&path) - best).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn a_sound_from_before_is_no_part_of_the_text() {
        let tokens = tokens();
        let sure = |class: u32| vec![(class, 0.999_f32.ln())];
        let frames = [sure(1), sure(0), sure(1), sure(2)];
        let found = align(&tokens, "ab", Some(1), 100, frames.iter().map(Vec::as_slice)).unwrap();
        let times: Vec<(u32, u64, u64)> = found
            .tokens
            .iter()
            .map(|token| (token.id, token.start, token.end))
            .collect();
        assert_eq!(times, [(1, 102, 103), (2, 103, 104)]);
        assert!(found.log_prob > -0.01);
        assert!(align(&tokens, "xyz", None, 0, frames.iter().map(Vec::as_slice)).is_none());
        assert!(align(&tokens, "abababab", None, 0, frames.iter().map(Vec::as_slice)).is_none());
    }
}
