//! Hotwords as clients write them: in JSON, and as one line in queries, forms and flags.

use serde::Deserialize;
use waxwing_model::ctc::{Hotword, Hotwords};

/// A hotword of a `start` or `configure`: a text, or `{"text": …, "boost": …}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "a hotword is a text, or an object with a `text` and perhaps a `boost`"
)]
pub enum HotwordField {
    /// With the usual boost.
    Text(String),
    /// With its own.
    Boosted {
        /// A word or phrase.
        text: String,
        /// Natural logarithm that each letter adds.
        #[serde(default)]
        boost: Option<f32>,
    },
}

impl From<&HotwordField> for Hotword {
    fn from(field: &HotwordField) -> Self {
        let (text, boost) = match field {
            HotwordField::Text(text) => (text, None),
            HotwordField::Boosted { text, boost } => (text, *boost),
        };
        Self {
            text: text.clone(),
            boost: boost.unwrap_or(Hotwords::DEFAULT_BOOST),
        }
    }
}

/// A comma-separated list; each may end in `:` and its boost, as in `waxwing:2,ada lovelace`. What stands behind the last colon and is no
/// number belongs to the word.
pub fn list(text: &str) -> Vec<HotwordField> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            match item
                .rsplit_once(':')
                .and_then(|(word, boost)| Some((word, boost.trim().parse().ok()?)))
            {
                Some((word, boost)) => HotwordField::Boosted {
                    text: word.trim().into(),
                    boost: Some(boost),
                },
                None => HotwordField::Text(item.into()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hotwords(fields: &[HotwordField]) -> Vec<(String, f32)> {
        fields
            .iter()
            .map(|field| {
                let Hotword { text, boost } = field.into();
                (text, boost)
            })
            .collect()
    }

    #[test]
    fn json_takes_texts_and_objects() {
        let fields: Vec<HotwordField> =
            serde_json::from_str(r#"["ada", {"text": "waxwing", "boost": 2}, {"text": "candle"}]"#).unwrap();
        let usual = Hotwords::DEFAULT_BOOST;
        assert_eq!(
            hotwords(&fields),
            [
                ("ada".into(), usual),
                ("waxwing".into(), 2.0),
                ("candle".into(), usual)
            ]
        );
        let error = serde_json::from_str::<Vec<HotwordField>>("[7]").unwrap_err();
        assert!(error.to_string().contains("a hotword is a text"), "{error}");
    }

    #[test]
    fn a_line_is_split_at_commas_and_boosts_at_the_last_colon() {
        let usual = Hotwords::DEFAULT_BOOST;
        assert_eq!(
            hotwords(&list(" ada lovelace, waxwing:2.5,,a:b ,c:1:0.5")),
            [
                ("ada lovelace".into(), usual),
                ("waxwing".into(), 2.5),
                ("a:b".into(), usual),
                ("c:1".into(), 0.5)
            ]
        );
        assert!(list(" , ").is_empty());
    }
}
