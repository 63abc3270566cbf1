//! Readable finals: from spoken words to written numbers, times, amounts and ordinals, with a capital at the beginning. English.
//!
//! A pure function of the words, by rules that can be read below; what no rule is sure of stays as it was spoken:
//!
//! * whole numbers from ten on become digits, with commas from 10,000 on; one to nine stay words unless a unit follows or digits stand beside them;
//! * digits spelled one by one become one row (`two oh five` → `205`); `point` and digits behind a number make a decimal;
//! * two numbers that read as a year become one (`nineteen eighty four` → `1984`);
//! * ordinals from tenth on, and all behind a month, become digits with their ending;
//! * `percent`, `dollars`, `euros`, `dollars and … cents`, `o'clock`, and hours with `a m` or `p m` take digits and their sign;
//! * `i` and its contractions, months and days that are nothing else, and the first word begin with a capital.

const UNITS: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = [
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
];
const ORDINALS: [&str; 20] = [
    "zeroth",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
];
const ORDINAL_TENS: [&str; 8] = [
    "twentieth",
    "thirtieth",
    "fortieth",
    "fiftieth",
    "sixtieth",
    "seventieth",
    "eightieth",
    "ninetieth",
];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];
const SCALES: [(&str, u64); 3] = [
    ("billion", 1_000_000_000),
    ("million", 1_000_000),
    ("thousand", 1_000),
];

/// Writes the words of a final. Allocates.
pub fn formatted<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let mut written: Vec<String> = Vec::new();
    let mut rest = words.as_slice();
    let mut is_after_month = false;
    while let Some((&first, behind)) = rest.split_first() {
        let (text, used) = special(rest, is_after_month).unwrap_or_else(|| (first.to_owned(), 1));
        is_after_month = false;
        if used == 1 && text == first {
            is_after_month = MONTHS.contains(&first) && starts_with_number(behind);
            written.push(with_capital(first, is_after_month));
        } else {
            written.push(text);
        }
        rest = rest.get(used..).unwrap_or(&[]);
    }
    capital(&written.join(" "))
}

/// What stands for the first words, and for how many.
fn special(words: &[&str], is_after_month: bool) -> Option<(String, usize)> {
    digits(words)
        .or_else(|| time(words))
        .or_else(|| year(words))
        .or_else(|| ordinal(words, is_after_month))
        .or_else(|| amount(words, is_after_month))
}

fn position(table: &[&str], word: Option<&&str>) -> Option<u64> {
    let word = word?;
    table
        .iter()
        .position(|entry| entry == word)
        .map(|index| index as u64)
}

fn digit(word: &str) -> Option<u64> {
    match word {
        "oh" => Some(0),
        _ => position(&UNITS, Some(&word)).filter(|&value| value < 10),
    }
}

/// Two digits or more that are spelled one by one, the first of them not `oh`.
fn digits(words: &[&str]) -> Option<(String, usize)> {
    let row: Vec<u64> = words.iter().map_while(|word| digit(word)).collect();
    // The last one belongs to a longer number behind the row.
    let is_cut = words
        .get(row.len())
        .is_some_and(|word| *word == "hundred" || SCALES.iter().any(|(name, _)| name == word));
    let used = row.len() - usize::from(is_cut && !row.is_empty());
    if used < 2 || words.first() == Some(&"oh") {
        return None;
    }
    Some((row.iter().take(used).map(u64::to_string).collect(), used))
}

/// 0 to 99.
fn below_hundred(words: &[&str]) -> Option<(u64, usize)> {
    if let Some(value) = position(&UNITS, words.first()) {
        return Some((value, 1));
    }
    let tens = 20 + 10 * position(&TENS, words.first())?;
    match position(&UNITS, words.get(1)) {
        Some(units @ 1..10) => Some((tens + units, 2)),
        _ => Some((tens, 1)),
    }
}

fn below_thousand(words: &[&str]) -> Option<(u64, usize)> {
    let (value, used) = match words.first() {
        Some(&"a") if words.get(1) == Some(&"hundred") => (1, 1),
        _ => below_hundred(words)?,
    };
    if words.get(used) != Some(&"hundred") || !(1..100).contains(&value) {
        return Some((value, used));
    }
    let (value, used) = (100 * value, used + 1);
    let skipped = used + usize::from(words.get(used) == Some(&"and"));
    match below_hundred(words.get(skipped..)?) {
        Some((more @ 1.., length)) => Some((value + more, skipped + length)),
        _ => Some((value, used)),
    }
}

/// A whole number as it is read out, below a thousand billion.
fn whole(words: &[&str]) -> Option<(u64, usize)> {
    let (mut sum, mut used) = (0, 0);
    let mut smallest = u64::MAX;
    loop {
        let skipped = used + usize::from(used > 0 && words.get(used) == Some(&"and"));
        let Some((value, length)) =
            below_thousand(words.get(skipped..).unwrap_or(&[])).filter(|&(value, _)| used == 0 || value > 0)
        else {
            break;
        };
        let behind = skipped + length;
        let scale = SCALES
            .iter()
            .find(|(name, size)| words.get(behind) == Some(name) && *size < smallest);
        match scale {
            Some((_, size)) if value < 1000 => {
                sum += value * size;
                smallest = *size;
                used = behind + 1;
            }
            // `and` joins a last part below a hundred only: `two thousand and five`, not `one and two hundred`.
            _ if used == 0 || skipped == used || value < 100 => return Some((sum + value, behind)),
            _ => break,
        }
    }
    (used > 0).then_some((sum, used))
}

fn year(words: &[&str]) -> Option<(String, usize)> {
    let (century, used) = below_hundred(words).filter(|(value, _)| (13..=20).contains(value))?;
    let behind = words.get(used..)?;
    let (rest, length) = match (behind.first(), behind.get(1).and_then(|word| digit(word))) {
        (Some(&"oh"), Some(units @ 1..)) => (units, 2),
        _ => below_hundred(behind).filter(|(value, _)| *value >= 10)?,
    };
    // `twenty` takes units with it, so `used` is 1 here; a further number would make it a row, not a year.
    (below_hundred(behind.get(length..)?).is_none()).then(|| (format!("{century}{rest:02}"), used + length))
}

fn ordinal(words: &[&str], is_after_month: bool) -> Option<(String, usize)> {
    let tens = position(&TENS, words.first()).map(|index| 20 + 10 * index);
    let units = |word: Option<&&str>| position(&ORDINALS, word).filter(|&value| value > 0);
    let (value, used) = match (tens, units(words.get(1))) {
        (Some(tens), Some(units @ 1..10)) => (tens + units, 2),
        _ => match (units(words.first()), position(&ORDINAL_TENS, words.first())) {
            (Some(value), _) => (value, 1),
            (_, index) => (20 + 10 * index?, 1),
        },
    };
    let ending = match (value % 10, value % 100 / 10) {
        (_, 1) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    (value >= 10 || is_after_month).then(|| (format!("{value}{ending}"), used))
}

/// `five thirty p m`, `five p m`, `five o'clock`.
fn time(words: &[&str]) -> Option<(String, usize)> {
    let hour = position(&UNITS, words.first()).filter(|hour| (1..=12).contains(hour))?;
    let behind = words.get(1..)?;
    if behind.first() == Some(&"o'clock") {
        return Some((format!("{hour} o'clock"), 2));
    }
    let minutes = match (behind.first(), behind.get(1).and_then(|word| digit(word))) {
        (Some(&"oh"), Some(units @ 1..)) => Some((units, 2)),
        _ => below_hundred(behind).filter(|(value, _)| (10..60).contains(value)),
    };
    let used = minutes.map_or(0, |(_, used)| used);
    let half = match behind.get(used..)? {
        ["a", "m", ..] => "a.m.",
        ["p", "m", ..] => "p.m.",
        _ => return None,
    };
    let clock = match minutes {
        Some((minutes, _)) => format!("{hour}:{minutes:02} {half}"),
        None => format!("{hour} {half}"),
    };
    Some((clock, 3 + used))
}

/// A number with what follows it.
fn amount(words: &[&str], is_after_month: bool) -> Option<(String, usize)> {
    let (value, used) = whole(words)?;
    let behind = words.get(used..)?;
    let (mut number, mut length) = (grouped(value), used);
    let decimals: String = match behind {
        ["point", digits @ ..] => digits
            .iter()
            .map_while(|word| digit(word))
            .map(|digit| digit.to_string())
            .collect(),
        _ => String::new(),
    };
    let is_decimal = !decimals.is_empty();
    if is_decimal {
        length += 1 + decimals.len();
        number = format!("{number}.{decimals}");
    }
    match words.get(length..)? {
        ["percent", ..] => Some((format!("{number}%"), length + 1)),
        ["per", "cent", ..] => Some((format!("{number}%"), length + 2)),
        ["dollar" | "dollars", behind @ ..] => {
            let cents = behind.strip_prefix(&["and"]).unwrap_or(behind);
            let joined = usize::from(cents.len() < behind.len());
            match below_hundred(cents) {
                Some((value, used)) if !is_decimal && matches!(cents.get(used), Some(&"cent" | &"cents")) => {
                    Some((format!("${number}.{value:02}"), length + 1 + joined + used + 1))
                }
                _ => Some((format!("${number}"), length + 1)),
            }
        }
        ["euro" | "euros", ..] => Some((format!("€{number}"), length + 1)),
        _ if is_decimal || is_after_month || value >= 10 => Some((number, length)),
        _ => None,
    }
}

fn grouped(value: u64) -> String {
    let digits = value.to_string();
    if value < 10_000 {
        return digits;
    }
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn starts_with_number(words: &[&str]) -> bool {
    ordinal(words, true).is_some() || below_hundred(words).is_some()
}

fn with_capital(word: &str, is_month: bool) -> String {
    let is_name =
        DAYS.contains(&word) || (MONTHS.contains(&word) && !matches!(word, "march" | "may" | "august"));
    if is_name || is_month || word == "i" || word.starts_with("i'") {
        capital(word)
    } else {
        word.to_owned()
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::formatted;

    const CASES: [(&str, &str); 37] = [
        ("", ""),
        ("hello there", "Hello there"),
        ("i think i'm late", "I think I'm late"),
        ("one of them", "One of them"),
        ("there are nine calls", "There are nine calls"),
        ("there are twelve calls", "There are 12 calls"),
        ("forty two", "42"),
        ("one hundred and five", "105"),
        ("a hundred people", "100 people"),
        ("a thing", "A thing"),
        ("two thousand and five", "2005"),
        ("twelve thousand three hundred forty five", "12,345"),
        ("three million two hundred thousand and one", "3,200,001"),
        ("call two three nine oh four", "Call 23904"),
        ("oh no", "Oh no"),
        ("dial one one two hundred times", "Dial 11 200 times"),
        ("nineteen eighty four", "1984"),
        ("in twenty twenty six", "In 2026"),
        ("nineteen oh five", "1905"),
        ("the first of them", "The first of them"),
        ("the twenty first time", "The 21st time"),
        ("the twelfth and the thirtieth", "The 12th and the 30th"),
        ("march third", "March 3rd"),
        ("on march three", "On March 3"),
        ("we march on", "We march on"),
        ("you may go on monday", "You may go on Monday"),
        ("it is five o'clock", "It is 5 o'clock"),
        ("at five thirty p m", "At 5:30 p.m."),
        ("at eleven oh five a m", "At 11:05 a.m."),
        ("at seven a m", "At 7 a.m."),
        ("five percent", "5%"),
        ("three point one four", "3.14"),
        ("two dollars", "$2"),
        ("five dollars and six cents", "$5.06"),
        ("fifty one euros", "€51"),
        ("two point five per cent of ten", "2.5% of 10"),
        ("one and two hundred", "One and 200"),
    ];

    #[test]
    fn words_are_written_by_the_rules() {
        for (spoken, expected) in CASES {
            let words: Vec<&str> = spoken.split_whitespace().collect();
            assert_eq!(formatted(&words), expected, "{spoken}");
        }
    }

    #[test]
    fn a_final_that_ends_inside_a_number_is_no_trouble() {
        let words: Vec<&str> = "five dollars and six hundred and million point oh a"
            .split(' ')
            .collect();
        for from in 0..words.len() {
            for to in from..=words.len() {
                formatted(&words[from..to]);
            }
        }
    }
}
