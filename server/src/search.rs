//! What a stream's decoder is told: what the operator and the client asked for, on top of what its model does by default.

use std::sync::Arc;

use waxwing_model::ctc::{Hotword, Hotwords};
use waxwing_model::transcript::{Endpointing, TranscriberOptions};

use crate::engine::StepModel;
use crate::wire::native;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// When utterances end.
    pub endpointing: native::Endpointing,
    /// How words are searched for; in range.
    pub decoding: native::Decoding,
    /// Words and phrases to favour.
    pub hotwords: &'a [Hotword],
}

impl Wanted<'_> {
    /// The decoder's options for a stream of this model, and what of the wishes has no effect, in words for whoever wished.
    pub fn of(&self, model: &dyn StepModel) -> (TranscriberOptions, Vec<String>) {
        let decoding = self.decoding.over(model.default_decoding());
        let mut remarks = Vec::new();
        if decoding.alternatives > 1 && decoding.beam_width == 1 {
            remarks.push("`alternatives` needs a `beam_width` above 1".to_owned());
        }
        let weighs = self
            .decoding
            .language_model_weight
            .is_some_and(|weight| weight > 0.0);
        if weighs && !model.has_language_model() {
            remarks.push(format!(
                "`language_model_weight`: the model `{}` has no language model",
                model.id()
            ));
        } else if weighs && decoding.beam_width == 1 {
            remarks.push("`language_model_weight` needs a `beam_width` above 1".to_owned());
        }
        let is_judged = self.decoding.rescoring_weight.is_some_and(|weight| weight > 0.0);
        if is_judged && model.text_scorer_hears().is_none() {
            remarks.push(format!(
                "`rescoring_weight`: the model `{}` has neither a second listener nor a phone head",
                model.id()
            ));
        } else if is_judged && decoding.second_pass_width <= decoding.beam_width {
            remarks.push("`rescoring_weight` needs a `second_pass_width` above `beam_width`".to_owned());
        }
        let mut hotwords = None;
        if !self.hotwords.is_empty() {
            if decoding.beam_width == 1 {
                remarks.push("`hotwords` needs a `beam_width` above 1".to_owned());
            } else {
                let (usable, warnings) = Hotwords::new(model.tokens(), self.hotwords);
                remarks.extend(warnings.iter().map(ToString::to_string));
                hotwords = (!usable.is_empty()).then(|| Arc::new(usable));
            }
        }
        let options = TranscriberOptions {
            endpointing: self.endpointing.over(Endpointing::default()),
            decoding,
            hotwords,
            ..TranscriberOptions::default()
        };
        (options, remarks)
    }
}

#[cfg(test)]
mod tests {
    use waxwing_model::device::Device;

    use super::*;
    use crate::catalog;
    use crate::wire::native::Decoding;

    fn told(decoding: Decoding, hotwords: &[&str]) -> (TranscriberOptions, Vec<String>) {
        let models = catalog::load(&[], &Device::Cpu).unwrap();
        let hotwords: Vec<Hotword> = hotwords
            .iter()
            .map(|text| Hotword {
                text: (*text).into(),
                boost: Hotwords::DEFAULT_BOOST,
            })
            .collect();
        Wanted {
            endpointing: native::Endpointing::default(),
            decoding,
            hotwords: &hotwords,
        }
        .of(models[0].as_ref())
    }

    #[test]
    fn wishes_go_over_what_the_model_does_by_default() {
        let model = &catalog::load(&[], &Device::Cpu).unwrap()[0];
        let (options, remarks) = told(Decoding::default(), &[]);
        assert_eq!(options.decoding, model.default_decoding());
        assert!(remarks.is_empty() && options.hotwords.is_none());
        let narrow = Decoding {
            beam_width: Some(2),
            word_bonus: Some(0.5),
            ..Decoding::default()
        };
        let (options, _) = told(narrow, &[]);
        assert_eq!(
            (options.decoding.beam_width, options.decoding.word_bonus),
            (2, 0.5)
        );
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let beam = Decoding {
            beam_width: Some(4),
            ..Decoding::default()
        };
        let (options, remarks) = told(beam, &["waxwing", "\u{4f60}\u{597d}"]);
        assert!(options.hotwords.is_some());
        assert_eq!(remarks.len(), 1, "{remarks:?}");
        assert!(
            remarks[0].contains('\u{4f60}') && remarks[0].contains("left out"),
            "{remarks:?}"
        );
        let best_path = Decoding {
            beam_width: Some(1),
            alternatives: Some(2),
            language_model_weight: Some(0.5),
            ..Decoding::default()
        };
        let (options, remarks) = told(best_path, &["waxwing"]);
        assert!(options.hotwords.is_none());
        for name in ["`alternatives`", "`language_model_weight`", "`hotwords`"] {
            assert!(
                remarks.iter().any(|remark| remark.starts_with(name)),
                "{name}: {remarks:?}"
            );
        }
    }
}
