//! In which numbers a served encoder multiplies.

use std::fmt;
use std::str::FromStr;

/// Numbers of the products with weights; everything between them is `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floating point: equal to the original within rounding.
    #[default]
    F32,
    /// Weights of eight bits with a scale for each output, inputs of twelve bits with a scale for each row. For the Emformers.
    Int8,
}

impl Precision {
    /// Every choice, by its name.
    pub const NAMES: [&'static str; 2] = ["f32", "int8"];
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    /// # Errors
    /// What there is instead, and why there is no `bf16`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "int8" => Ok(Self::Int8),
            "bf16" => Err(
                "expected f32 or int8, found bf16: there is no bf16 product for processors here; int8 is the faster choice"
                    .into(),
            ),
            other => Err(format!("expected f32 or int8, found {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_others_refused_with_a_reason() {
        for name in Precision::NAMES {
            assert_eq!(name.parse::<Precision>().unwrap().to_string(), name);
        }
        assert!(
            "bf16"
                .parse::<Precision>()
                .unwrap_err()
                .contains("no bf16 product")
        );
        assert!("fp8".parse::<Precision>().unwrap_err().contains("found fp8"));
    }
}
