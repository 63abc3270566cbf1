//! In which numbers a served encoder multiplies.

use std::fmt;
use std::str::FromStr;

/// Numbers of the products with weights; everything between them is `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floating point: equal to the original within rounding.
    #[default]
    F32,
    /// Weights of 8 bits with a scale for each output, inputs of 16 bits with a scale for each row's every 256, but those
    /// of the feed-forward parts of 8 bits, as all are in [`Precision::W8A8`]. For the Emformers.
    Int8,
    /// Weights of 8 bits with a scale for each output, inputs of 8 bits with a scale and a zero for each row's every 256: the
    /// fastest where the processor has VNNI, and the least exact. For the Emformers.
    W8A8,
    /// Weights and inputs of 16 bits with the exponents of `f32` and eight binary digits. For the Emformers.
    Bf16,
}

impl Precision {
    /// Every choice, by its name.
    pub const NAMES: [&'static str; 4] = ["f32", "int8", "bf16", "w8a8"];
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::W8A8 => "w8a8",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    /// # Errors
    /// What there is instead.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "int8" => Ok(Self::Int8),
            "bf16" => Ok(Self::Bf16),
            "w8a8" => Ok(Self::W8A8),
            other => Err(format!("expected f32, int8, bf16 or w8a8, found {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_others_refused_by_name() {
        for name in Precision::NAMES {
            assert_eq!(name.parse::<Precision>().unwrap().to_string(), name);
        }
        assert!("fp8".parse::<Precision>().unwrap_err().contains("found fp8"));
    }
}
