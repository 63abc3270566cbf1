//! How probable a text is by its phones: the sum over all of CTC's paths and all pronunciations of its words.

/// What a frame of a word without a pronunciation costs, a natural log, beside its most probable class.
const UNKNOWN: f64 = 0.5;

/// A word of a text as it may sound.
#[derive(Debug)]
pub(super) enum Sounds<'a> {
    /// One of these sequences of phones.
    Known(Vec<&'a [u8]>),
    /// Nobody knows: any sequence, at a cost.
    Unknown,
}

/// The states of one pronunciation, or of an unknown word, which has one: what sounds, and the blank behind each phone but the last.
struct Said<'a> {
    phones: &'a [u8],
    sound: Vec<f64>,
    blank: Vec<f64>,
}

impl Said<'_> {
    /// What leaves it with its last phone.
    fn out(&self) -> f64 {
        self.sound.last().copied().unwrap_or_default()
    }
}

/// The natural log-probability of `words` in `(frames, classes)` probabilities; `None` where the frames have no room for them.
pub(super) fn log_prob(probabilities: &[f32], classes: usize, words: &[Sounds<'_>]) -> Option<f64> {
    const ANYTHING: &[u8] = &[0];
    let mut said: Vec<Vec<Said<'_>>> = words
        .iter()
        .map(|word| {
            let known: &[&[u8]] = match word {
                Sounds::Known(all) => all,
                Sounds::Unknown => &[ANYTHING],
            };
            known
                .iter()
                .map(|&phones| Said {
                    phones,
                    sound: vec![0.0; phones.len()],
                    blank: vec![0.0; phones.len()],
                })
                .collect()
        })
        .collect();
    // The blanks in front of each word, and behind the last.
    let mut gaps = vec![0.0; words.len() + 1];
    gaps[0] = 1.0;
    let mut log_scale = 0.0;
    for frame in probabilities.chunks_exact(classes) {
        let probability = |phone: u8| f64::from(frame.get(phone as usize).copied().unwrap_or_default());
        let blank = probability(0);
        let any = f64::from(frame.iter().copied().fold(0.0, f32::max)) * (-UNKNOWN).exp();
        let mut sum = 0.0;
        // From the last word to the first: each needs what the one before was in the frame before.
        for word in (0..words.len()).rev() {
            let (before, from) = said.split_at_mut(word);
            let Some(own) = from.first_mut() else { continue };
            let ends: f64 = own.iter().map(Said::out).sum();
            gaps[word + 1] = (gaps[word + 1] + ends) * blank;
            sum += gaps[word + 1];
            for one in own {
                let is_any = one.phones == ANYTHING;
                for at in (0..one.phones.len()).rev() {
                    let phone = one.phones[at];
                    let enters = if at > 0 {
                        let runs_on = if one.phones[at - 1] == phone {
                            0.0
                        } else {
                            one.sound[at - 1]
                        };
                        one.blank[at - 1] + runs_on
                    } else {
                        let others = before.last().into_iter().flatten();
                        let others = others.filter(|other| is_any || other.phones.last() != Some(&phone));
                        gaps[word] + others.map(Said::out).sum::<f64>()
                    };
                    let emitted = if is_any { any } else { probability(phone) };
                    one.blank[at] = (one.blank[at] + one.sound[at]) * blank;
                    one.sound[at] = (one.sound[at] + enters) * emitted;
                    sum += one.sound[at];
                    if at + 1 < one.phones.len() {
                        sum += one.blank[at];
                    }
                }
            }
        }
        gaps[0] *= blank;
        sum += gaps[0];
        if sum <= 0.0 {
            return None;
        }
        log_scale += sum.ln();
        let scale = sum.recip();
        gaps.iter_mut().for_each(|value| *value *= scale);
        for one in said.iter_mut().flatten() {
            one.sound.iter_mut().for_each(|value| *value *= scale);
            one.blank.iter_mut().for_each(|value| *value *= scale);
        }
    }
    let ends: f64 = said.last().into_iter().flatten().map(Said::out).sum();
    let all = ends + gaps.last().copied().unwrap_or_default();
    (all > 0.0).then(|| all.ln() + log_scale)
}
