//! Which ConvNet2.

use serde::{Deserialize, Serialize};

/// The configuration of a ConvNet2; all sizes follow from its variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvNet2Config {
    /// Which of the three.
    pub variant: Variant,
}

/// The three networks that were published under this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Four convolutions, two LSTMs: 14 306 734 parameters, "ConvNet2" of the published results (commit 426e5e6).
    TwoLstm,
    /// Four convolutions, three LSTMs with a batch norm between: 18 510 254 parameters, "3x LSTM" (commit 5e30aec).
    ThreeLstm,
    /// Six convolutions, two LSTMs with a batch norm between: 15 488 942 parameters (commit 31a44b4).
    SixLayers,
}
