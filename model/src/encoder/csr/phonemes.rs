//! Classes of the model, and how far a transcript of them is from a reference.

/// Class of the CTC blank.
pub const BLANK: usize = 0;

/// The 46 classes: blank, space, 44 phonemes.
pub const PHONEMES: [&str; 46] = [
    "_", " ", "AA", "AE", "AH", "AO", "AW", "AX", "AY", "B", "CH", "D", "DH", "EH", "EHR", "ER", "EY", "F",
    "G", "H", "IH", "IY", "IYR", "JH", "K", "L", "M", "N", "NG", "O", "OW", "OY", "P", "R", "S", "SH", "T",
    "TH", "UH", "UHR", "UW", "V", "W", "Y", "Z", "ZH",
];

/// Levenshtein's distance: fewest insertions, deletions and substitutions from one to the other.
pub fn edit_distance<T: PartialEq>(left: &[T], right: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (done, from) in left.iter().enumerate() {
        let mut diagonal = done;
        row[0] = done + 1;
        for (index, to) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[index + 1];
            row[index + 1] = substituted.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[right.len()]
}

/// The original's error rate (LER of letters, PER of phonemes): each utterance's distance over its reference's length,
/// averaged over the utterances. `None` without utterances or with an empty reference.
pub fn error_rate<T: PartialEq>(pairs: &[(&[T], &[T])]) -> Option<f64> {
    if pairs.is_empty() || pairs.iter().any(|(_, reference)| reference.is_empty()) {
        return None;
    }
    let rates = pairs
        .iter()
        .map(|(found, reference)| edit_distance(found, reference) as f64 / reference.len() as f64);
    Some(rates.sum::<f64>() / pairs.len() as f64)
}
