//! Pieces of a SentencePiece model: enough of its protocol buffer to write a `tokens.txt`.
//!
//! Source: `sentencepiece_model.proto`: `ModelProto.pieces` is field 1, each with `piece` (1, string), `score` (2, float)
//! and `type` (3, enum: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte).

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// As written, U+2581 for a space.
    pub text: String,
    /// Whether it stands for text: not the unknown, nor a control such as `<s>`.
    pub is_text: bool,
}

/// Reads the pieces of a `.model` file, in the order of their ids.
///
/// # Errors
/// In words: what the file is not.
pub fn pieces(bytes: &[u8]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut fields = Fields(bytes);
    while let Some((field, value)) = fields.next()? {
        let (1, Value::Bytes(message)) = (field, value) else {
            continue;
        };
        let (mut text, mut kind) = (None, 1);
        let mut fields = Fields(message);
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (1, Value::Bytes(bytes)) => text = std::str::from_utf8(bytes).ok().map(str::to_owned),
                (3, Value::Number(number)) => kind = number,
                _ => {}
            }
        }
        pieces.push(Piece {
            text: text.ok_or("not a SentencePiece model: a piece without text")?,
            is_text: !matches!(kind, 2 | 3 | 5),
        });
    }
    if pieces.is_empty() {
        return Err("not a SentencePiece model: no pieces".into());
    }
    Ok(pieces)
}

/// Writes `tokens.txt`: a piece that stands for no text is put in angle brackets, and `<blank>` comes last, where RNN-T
/// models have it.
///
/// # Errors
/// As [`pieces`].
pub fn tokens_with_last_blank(bytes: &[u8]) -> Result<String, String> {
    let mut tokens = spelled(bytes)?;
    tokens.push("<blank>".into());
    Ok(lines(&tokens))
}

/// As [`tokens_with_last_blank`], with `<blank>` in the place of the first piece, the unknown, where SenseVoice has it.
///
/// # Errors
/// As [`pieces`]; also when the first piece stands for text.
pub fn tokens_with_first_blank(bytes: &[u8]) -> Result<String, String> {
    let mut tokens = spelled(bytes)?;
    match tokens.first_mut() {
        Some(first) if first.starts_with('<') => *first = "<blank>".into(),
        first => {
            let found = first.map_or("", |first| first.as_str());
            return Err(format!(
                "expected a first piece that stands for no text, found `{found}`"
            ));
        }
    }
    Ok(lines(&tokens))
}

fn lines(tokens: &[String]) -> String {
    tokens.iter().map(|token| format!("{token}\n")).collect()
}

fn spelled(bytes: &[u8]) -> Result<Vec<String>, String> {
    let pieces = pieces(bytes)?.into_iter().enumerate();
    Ok(pieces
        .map(|(id, piece)| {
            let in_brackets = piece.text.starts_with('<') && piece.text.ends_with('>');
            if piece.is_text || in_brackets {
                piece.text
            } else {
                format!("<{id}>")
            }
        })
        .collect())
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Fields of a protocol buffer message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = self.number()?;
                Value::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => Value::Bytes(self.take(4)?),
            other => return Err(format!("not a SentencePiece model: field of type {other}")),
        };
        Ok(Some((key >> 3, value)))
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("not a SentencePiece model: a number too long".into())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or("not a whole SentencePiece model: it ends inside a field")?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces as the original writes them: unknown, control, two words; a trainer's settings behind them.
    const MODEL: &[u8] = b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02\x0a\x0c\x0a\x03<s>\x15\0\0\0\0\x18\x03\
        \x0a\x0b\x0a\x04\xe2\x96\x81a\x15\0\0\x80\xbf\x0a\x08\x0a\x01b\x15\0\0\0\xc0\x12\x02\x10\x07";

    #[test]
    fn pieces_become_tokens_with_the_blank_last_or_first() {
        assert_eq!(
            tokens_with_last_blank(MODEL).unwrap(),
            "<unk>\n<s>\n▁a\nb\n<blank>\n"
        );
        assert_eq!(tokens_with_first_blank(MODEL).unwrap(), "<blank>\n<s>\n▁a\nb\n");
        let error = tokens_with_first_blank(&MODEL[30..43]).unwrap_err();
        assert!(error.contains("found `▁a`"), "{error}");
    }

    #[test]
    fn other_files_and_cut_ones_are_refused() {
        for length in [1, 5, 15, 40, MODEL.len() - 1] {
            assert!(pieces(&MODEL[..length]).is_err(), "{length}");
        }
        for bytes in [&b""[..], b"PK\x03\x04", b"{\"a\": 1}", &[0xff; 30]] {
            assert!(pieces(bytes).unwrap_err().contains("SentencePiece"));
        }
    }
}
