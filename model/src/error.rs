//! What can go wrong between a model directory and log-probs.

use std::fmt;
use std::path::PathBuf;

/// Any failure of this crate. Messages are lower case and name what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of a model directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A model directory does not hold a usable model. Lists every problem found, not only the first.
    #[error("{}", ProblemList(problems))]
    Invalid {
        /// Each one names the file, the field or tensor, and what was expected and found.
        problems: Vec<String>,
    },
    /// A file of a new model directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint cannot be converted. Lists every problem found.
    #[error("cannot convert {}{}", file.display(), Lines(problems))]
    Checkpoint {
        /// The checkpoint.
        file: PathBuf,
        /// Each one names the tensor or setting, and what was expected and found.
        problems: Vec<String>,
    },
    /// A model that needs whole utterances was asked to stream.
    #[error(
        "this model cannot be served live: {reason}. Run it on whole utterances (`waxwing encode` without --streaming, or \
         `waxwing run`), or serve a causal model"
    )]
    CannotStream {
        /// What it needs that a live stream does not have.
        reason: String,
    },
    /// A row of a step has the wrong number of feature values.
    #[error("row {row} of the step holds {actual} feature values, expected {expected}")]
    FeatureCount {
        /// Index of the row in the batch.
        row: usize,
        /// Values that the state's age calls for.
        expected: usize,
        /// Values given.
        actual: usize,
    },
    /// A row of a step carries the state of another encoder, or one that was lost on a device: it holds no values.
    #[error("row {row} of the step has a state cache of {actual} values, expected {expected}")]
    StateSize {
        /// Index of the row in the batch.
        row: usize,
        /// Values that this encoder keeps for a session.
        expected: usize,
        /// Values of the state given.
        actual: usize,
    },
    /// A device has no memory for the state of another session.
    #[error(
        "no room on the device for another session's state of {bytes_each} bytes beside those of {sessions}: {reason}. Serve fewer \
         sessions at once"
    )]
    DeviceFull {
        /// Sessions that there is room for.
        sessions: usize,
        /// Bytes of each one's state.
        bytes_each: usize,
        /// What the device said.
        reason: String,
    },
    /// Tensors given to a whole-utterance call do not fit the model or one another.
    #[error("{name}: expected {expected}, found {actual}")]
    Input {
        /// Which input.
        name: &'static str,
        /// What it has to be.
        expected: String,
        /// What it was.
        actual: String,
    },
    /// A tensor operation failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    /// An input that does not fit.
    pub(crate) fn input(name: &'static str, expected: impl Into<String>, actual: impl ToString) -> Self {
        Self::Input {
            name,
            expected: expected.into(),
            actual: actual.to_string(),
        }
    }
}

struct ProblemList<'a>(&'a [String]);

impl fmt::Display for ProblemList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unusable model{}", Lines(self.0))
    }
}

/// `: problem`, or their number and a line for each.
struct Lines<'a>(&'a [String]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0 {
            return write!(f, ": {only}");
        }
        write!(f, ", {} problems:", self.0.len())?;
        for problem in self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}
