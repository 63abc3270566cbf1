//! Enough of YAML for the `config.yaml` that lies beside FunASR's checkpoints: mappings and lists by indentation, `[a, b]`, and plain or
//! quoted values on one line. What these files do not use (anchors, text over several lines) is read as text or refused.

use serde_json::{Map, Number, Value};

/// Mappings within mappings; no such file has more.
const MAX_DEPTH: usize = 16;

struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

/// Reads a document whose top is a mapping.
///
/// # Errors
/// In words, with the number of the line.
pub(super) fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let lines: Vec<Line<'_>> = (1..)
        .zip(text.lines())
        .filter_map(|(number, line)| {
            let line = without_comment(line).trim_end();
            let text = line.trim_start_matches(' ');
            let indent = line.len() - text.len();
            (!text.is_empty() && text != "---").then_some(Line { number, indent, text })
        })
        .collect();
    let mut rest = lines.as_slice();
    let indent = rest.first().map_or(0, |line| line.indent);
    let value = block(&mut rest, indent, 0)?;
    match (value, rest.first()) {
        (_, Some(line)) => Err(format!("line {}: expected less indentation", line.number)),
        (Value::Object(map), None) => Ok(map),
        (Value::Null, None) => Ok(Map::new()),
        (_, None) => Err("expected names and values at its top".into()),
    }
}

/// A `#` begins a comment at the line's beginning and behind a space, outside quotes.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut before) = (None, ' ');
    for (at, character) in line.char_indices() {
        match quote {
            Some(open) if open == character => quote = None,
            None if character == '#' && before.is_whitespace() => return &line[..at],
            None if matches!(character, '"' | '\'') && matches!(before, ' ' | '[' | ',') => {
                quote = Some(character)
            }
            _ => {}
        }
        before = character;
    }
    line
}

/// The lines from here on that are indented by `indent`, and what is below them.
fn block(lines: &mut &[Line<'_>], indent: usize, depth: usize) -> Result<Value, String> {
    let Some(first) = lines.first() else {
        return Ok(Value::Null);
    };
    if depth > MAX_DEPTH {
        return Err(format!("line {}: more than {MAX_DEPTH} levels", first.number));
    }
    let is_item = |text: &str| text == "-" || text.starts_with("- ");
    let (mut list, mut map) = (Vec::new(), Map::new());
    let is_list = is_item(first.text);
    while let Some((line, rest)) = lines.split_first()
        && line.indent == indent
        && is_item(line.text) == is_list
    {
        *lines = rest;
        let (name, value) = if is_list {
            (None, line.text[1..].trim())
        } else {
            let at = (line.text.find(": ")).or(line.text.strip_suffix(':').map(str::len));
            let Some(at) = at else {
                return Err(format!("line {}: expected `name: value`", line.number));
            };
            let name = line.text[..at].trim_matches(['"', '\'']);
            (Some(name.to_owned()), line.text[at + 1..].trim())
        };
        let below = lines.first();
        // A list may stand under its name without further indentation.
        let below = below.filter(|below| {
            below.indent > indent || (!is_list && below.indent == indent && is_item(below.text))
        });
        let value = match below.map(|below| below.indent) {
            Some(indent) if value.is_empty() => block(lines, indent, depth + 1)?,
            _ => scalar(value),
        };
        match name {
            Some(name) => drop(map.insert(name, value)),
            None => list.push(value),
        }
    }
    Ok(if is_list {
        Value::Array(list)
    } else {
        Value::Object(map)
    })
}

fn scalar(text: &str) -> Value {
    if let Some(items) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
        return Value::Array(items.map(plain).collect());
    }
    plain(text)
}

fn plain(text: &str) -> Value {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)) {
            return Value::String(inner.to_owned());
        }
    }
    match text.to_ascii_lowercase().as_str() {
        "" | "~" | "null" => return Value::Null,
        "true" | "yes" => return Value::Bool(true),
        "false" | "no" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::Number(number.into());
    }
    let number = text.parse::<f64>().ok().and_then(Number::from_f64);
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mappings_lists_and_values_are_read() {
        let text = "---\n# a comment\nmodel: Fsmn  # its name\nmodel_conf:\n    detect_mode: 1 \n    thres: -100.0\n    ids: [0, 3]\n    \
                    nested:\n      'quoted': \"a # b\"\n      on: True\nempty:\nsizes:\n- 5\n- 10.5\nnumbers:\n  - 1\n  -  no\nlast: ~\n";
        let expected = json!({"model": "Fsmn", "model_conf": {"detect_mode": 1, "thres": -100.0, "ids": [0, 3],
            "nested": {"quoted": "a # b", "on": true}}, "empty": null, "sizes": [5, 10.5], "numbers": [1, false], "last": null});
        assert_eq!(Value::Object(parse(text).unwrap()), expected);
        assert_eq!(parse("").unwrap(), Map::new());
    }

    #[test]
    fn what_it_cannot_read_is_refused_with_its_line() {
        for (text, expected) in [
            ("a: 1\nno colon\n", "line 2: expected `name: value`"),
            ("a: 1\n   b: 2\n", "line 2: expected less indentation"),
            ("- 1\n- 2\n", "at its top"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let deep: String = (0..100_000)
            .map(|depth| format!("{}a:\n", " ".repeat(depth % 64)))
            .collect();
        assert!(parse(&deep).unwrap_err().contains("line"));
        let deep: String = (0..40)
            .map(|depth| format!("{}a:\n", " ".repeat(depth)))
            .collect();
        assert!(parse(&deep).unwrap_err().contains("more than 16 levels"));
    }
}
