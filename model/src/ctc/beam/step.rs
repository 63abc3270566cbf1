//! One frame of the search: which classes are tried, which prefixes stay, which are extended, which are kept.

use super::marks::Path;
use super::prefixes::NONE;
use super::{Candidate, Entry, PrefixBeam, Tried};
use crate::ctc::scorer::Scorer;

impl<S: Scorer> PrefixBeam<S> {
    /// Fills `tried` with the classes of the frame that are tried, the most probable first.
    pub(super) fn choose_classes(&mut self, log_probs: &[f32]) {
        self.tried.clear();
        let floor = self.pruning.min_token_log_prob;
        let mut best = Tried {
            class: NONE,
            log_prob: f32::NEG_INFINITY,
            probability: 0.0,
        };
        for (class, &log_prob) in (0..).zip(log_probs) {
            if log_prob >= floor && log_prob > f32::NEG_INFINITY {
                self.tried.push(Tried {
                    class,
                    log_prob,
                    probability: 0.0,
                });
            }
            if log_prob > best.log_prob {
                best = Tried {
                    class,
                    log_prob,
                    probability: 0.0,
                };
            }
        }
        if self.tried.is_empty() && best.class != NONE {
            self.tried.push(best);
        }
        let order = |a: &Tried, b: &Tried| b.log_prob.total_cmp(&a.log_prob).then(a.class.cmp(&b.class));
        if self.tried.len() > self.pruning.max_tokens {
            self.tried
                .select_nth_unstable_by(self.pruning.max_tokens - 1, order);
            self.tried.truncate(self.pruning.max_tokens);
        }
        self.tried.sort_unstable_by(order);
        for tried in &mut self.tried {
            tried.probability = f64::from(tried.log_prob.min(0.0)).exp() * self.scale;
        }
        self.tried.retain(|tried| tried.probability > 0.0);
    }

    /// What each prefix becomes without a new token of its own, and with the ones that its shorter neighbour gains.
    pub(super) fn let_stay(&mut self) {
        self.stays.clear();
        self.candidates.clear();
        let blank = self.tokens.blank() as usize;
        let blank = self.probabilities.get(blank).copied().unwrap_or(0.0);
        for (from, entry) in (0..).zip(&self.beam) {
            let again = self
                .probabilities
                .get(entry.token as usize)
                .copied()
                .unwrap_or(0.0);
            let mut sound = entry.sound * again;
            if again > 0.0
                && let Some(shorter) = self.beam.get(self.tree.parents_place(entry.node) as usize)
            {
                let source = if shorter.token == entry.token {
                    shorter.blank
                } else {
                    shorter.total()
                };
                sound += source * again * self.tree.get(entry.node).weight;
            }
            let stay = [entry.total() * blank, sound];
            self.stays.push(stay);
            self.candidates.push(Candidate {
                score: stay[0] + stay[1],
                from,
                token: NONE,
            });
        }
    }

    /// Adds the prefixes with one more token that have a chance.
    pub(super) fn extend(&mut self) {
        let scores = || self.candidates.iter().map(|candidate| candidate.score);
        let best = scores().fold(0.0, f64::max);
        let mut bound = best * (-f64::from(self.pruning.max_distance)).exp();
        if self.beam.len() >= self.pruning.beam_width {
            bound = bound.max(scores().fold(f64::INFINITY, f64::min));
        }
        let hope = |said: Option<f32>| said.map_or(1.0, |said| f64::from(said).exp().max(1.0));
        let hope = hope(self.scorer.best_token()) * hope(self.scorer.best_word());
        let blank = self.tokens.blank();
        for from in 0..self.beam.len() {
            let entry = &self.beam[from];
            let (node, last, after_blank, total) = (entry.node, entry.token, entry.blank, entry.total());
            let needs_word = self.is_between_words && node == self.tree.root();
            for index in 0..self.tried.len() {
                let Tried {
                    class, probability, ..
                } = self.tried[index];
                if total * probability * hope < bound {
                    break;
                }
                if class == blank || (needs_word && !self.tokens.begins_word(class)) {
                    continue;
                }
                let source = if class == last { after_blank } else { total };
                let mut score = source * probability;
                if score * hope < bound || score <= 0.0 {
                    continue;
                }
                let child = self.tree.child(node, class);
                if child != NONE {
                    if self.tree.get(child).place != NONE {
                        continue;
                    }
                    score *= self.tree.get(child).weight;
                } else {
                    score *= f64::from(self.judge(node, class).0).exp();
                }
                if score >= bound && score > 0.0 {
                    self.candidates.push(Candidate {
                        score,
                        from: from as u32,
                        token: class,
                    });
                }
            }
        }
    }

    /// Leaves the best candidates, in no particular but always the same order.
    pub(super) fn select(&mut self) {
        let best = self
            .candidates
            .iter()
            .fold(0.0, |best, candidate| f64::max(best, candidate.score));
        let bound = best * (-f64::from(self.pruning.max_distance)).exp();
        self.candidates
            .retain(|candidate| candidate.score >= bound && candidate.score > 0.0);
        if self.candidates.len() > self.pruning.beam_width {
            self.candidates
                .select_nth_unstable_by(self.pruning.beam_width - 1, |a, b| {
                    b.score
                        .total_cmp(&a.score)
                        .then(a.token.wrapping_add(1).cmp(&b.token.wrapping_add(1)))
                        .then(a.from.cmp(&b.from))
                });
            self.candidates.truncate(self.pruning.beam_width);
        }
    }

    /// Makes the next beam of the candidates.
    pub(super) fn build(&mut self, log_probs: &[f32], frame: u64) {
        self.next.clear();
        let log_prob_of = |class: u32| {
            log_probs
                .get(class as usize)
                .copied()
                .unwrap_or(f32::NEG_INFINITY)
        };
        let blank_log_prob = f64::from(log_prob_of(self.tokens.blank()));
        for index in 0..self.candidates.len() {
            let Candidate { score, from, token } = self.candidates[index];
            let entry = &self.beam[from as usize];
            let next = if token == NONE {
                let [blank, sound] = self.stays[from as usize];
                let mut blank_path = *entry.best_path();
                blank_path.viterbi += blank_log_prob;
                let mut next = Entry {
                    node: entry.node,
                    token: entry.token,
                    blank,
                    sound,
                    blank_path,
                    sound_path: blank_path,
                };
                if sound > 0.0 {
                    let log_prob = log_prob_of(next.token);
                    next.sound_path = self.sound_on(from as usize, log_prob, frame);
                }
                if blank <= 0.0 {
                    next.blank_path = next.sound_path;
                }
                next
            } else {
                let log_prob = log_prob_of(token);
                let path = if token == entry.token {
                    entry.blank_path
                } else {
                    *entry.best_path()
                };
                let node = entry.node;
                let child = match self.tree.child(node, token) {
                    NONE => {
                        let (said, state) = self.judge(node, token);
                        self.tree.append(node, token, said, state)
                    }
                    child => child,
                };
                let path = Path {
                    viterbi: path.viterbi + f64::from(log_prob),
                    mark: self.marks.begin(&path, token, frame),
                    end: frame + 1,
                    log_posterior: log_prob.min(0.0),
                };
                Entry {
                    node: child,
                    token,
                    blank: 0.0,
                    sound: score,
                    blank_path: path,
                    sound_path: path,
                }
            };
            self.marks.acquire(next.blank_path.mark);
            self.marks.acquire(next.sound_path.mark);
            self.next.push(next);
        }
    }

    /// The best path of a prefix that sounds in this frame: its run goes on, or begins behind its shorter neighbour.
    fn sound_on(&mut self, place: usize, log_prob: f32, frame: u64) -> Path {
        let entry = &self.beam[place];
        let mut goes_on = entry.sound_path;
        goes_on.viterbi += f64::from(log_prob);
        goes_on.end = frame + 1;
        goes_on.log_posterior = goes_on.log_posterior.max(log_prob.min(0.0));
        let shorter = self.beam.get(self.tree.parents_place(entry.node) as usize);
        let Some(before) = shorter.and_then(|shorter| {
            if shorter.token != entry.token {
                Some(*shorter.best_path())
            } else {
                (shorter.blank > 0.0).then_some(shorter.blank_path)
            }
        }) else {
            return goes_on;
        };
        let viterbi = before.viterbi + f64::from(log_prob);
        if entry.sound > 0.0 && goes_on.viterbi >= viterbi {
            return goes_on;
        }
        let token = entry.token;
        Path {
            viterbi,
            mark: self.marks.begin(&before, token, frame),
            end: frame + 1,
            log_posterior: log_prob.min(0.0),
        }
    }

    /// Puts the next beam into the place of this one.
    pub(super) fn replace_beam(&mut self) {
        for entry in &self.beam {
            self.tree.get_mut(entry.node).place = NONE;
        }
        let (mut best, mut best_total) = (0, 0.0);
        for (place, entry) in self.next.iter().enumerate() {
            self.tree.get_mut(entry.node).place = place as u32;
            if entry.total() > best_total {
                (best, best_total) = (place, entry.total());
            }
        }
        for entry in &self.beam {
            self.tree.release(entry.node);
            self.marks.release(entry.blank_path.mark);
            self.marks.release(entry.sound_path.mark);
        }
        std::mem::swap(&mut self.beam, &mut self.next);
        self.best = best;
        // The scale of this frame is in the values now.
        self.exponent -= i64::from(exponent(self.scale));
        self.scale = power_of_two(-exponent(best_total));
    }

    /// What the scorer says to `token` behind a prefix, and its state then.
    fn judge(&mut self, node: u32, token: u32) -> (f32, S::State) {
        let (mut said, mut state) = (0.0, self.tree.get(node).state);
        if self.scorer.best_word().is_some() && self.tokens.begins_word(token) {
            (said, state) = self.complete_word(node);
        }
        if self.scorer.best_token().is_some() {
            let (more, behind) = self.scorer.token(&state, token);
            return (said + more, behind);
        }
        (said, state)
    }

    /// What the scorer says to the open word's being complete, asked once for each prefix.
    pub(super) fn complete_word(&mut self, node: u32) -> (f32, S::State) {
        if let Some(known) = self.tree.get(node).word {
            return known;
        }
        self.spelled.clear();
        let mut at = node;
        let root = self.tree.root();
        let mut begun = false;
        while at != root && !begun {
            let token = self.tree.get(at).token;
            self.spelled.push(token);
            begun = self.tokens.begins_word(token);
            at = self.tree.get(at).parent;
        }
        self.word.clear();
        if !begun {
            self.word.push_str(&self.word_head);
        }
        for &token in self.spelled.iter().rev() {
            self.word.push_str(self.tokens.spelling(token));
        }
        let state = self.tree.get(node).state;
        let answer = if self.word.is_empty() {
            (0.0, state)
        } else {
            self.scorer.word(&state, &self.word)
        };
        self.tree.get_mut(node).word = Some(answer);
        answer
    }
}

/// The power of two in a positive number, rounded down; 0 for 0.
pub(super) fn exponent(value: f64) -> i32 {
    if value > 0.0 {
        // Subnormal numbers count as the smallest normal one.
        ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023
    } else {
        0
    }
}

/// Two to the power; `-1022..=1023`.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent.clamp(-1022, 1023) + 1023) as u64) << 52)
}
