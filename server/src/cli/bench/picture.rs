//! The load curve as a picture: what sessions felt, and how many were let in, over how many asked.

use std::fmt::Write;

use super::report::Row;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 30.0;

struct Panel {
    title: &'static str,
    lines: Vec<Line>,
}

struct Line {
    name: &'static str,
    colour: &'static str,
    /// (sessions asked for, value)
    points: Vec<(f64, f64)>,
}

/// An SVG of two panels, one below the other, with the same axis of sessions asked for. Draws the rows of all sessions.
pub(super) fn draw(rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.kind.is_none()).collect();
    let line = |name, colour, value: fn(&Row) -> f64| Line {
        name,
        colour,
        points: rows.iter().map(|row| (row.sessions as f64, value(row))).collect(),
    };
    let panels = [
        Panel {
            title: "lag of a sample in the sessions that were admitted, ms",
            lines: vec![
                line("p99", "#b3261e", |row| row.lag_ms.p99),
                line("p95", "#c77700", |row| row.lag_ms.p95),
                line("p50", "#1f6f43", |row| row.lag_ms.p50),
            ],
        },
        Panel {
            title: "sessions, over sessions asked for",
            lines: vec![
                line("done", "#1f6f43", |row| row.sessions_done as f64),
                line("refused", "#b3261e", |row| row.sessions_refused as f64),
            ],
        },
    ];
    let most = rows.iter().map(|row| row.sessions as f64).fold(1.0, f64::max);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>"##,
        LEFT + WIDTH + 70.0,
        2.0 * (HEIGHT + TOP + 40.0)
    );
    for (index, panel) in panels.iter().enumerate() {
        draw_panel(&mut svg, panel, TOP + index as f64 * (HEIGHT + TOP + 40.0), most);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, panel: &Panel, top: f64, most: f64) {
    let highest = ceiling(
        panel
            .lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|point| point.1)
            .fold(1.0, f64::max),
    );
    let x = |sessions: f64| LEFT + WIDTH * sessions / most;
    let y = |value: f64| top + HEIGHT * (1.0 - value / highest);
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        r#"<text x="{LEFT}" y="{}" font-weight="bold">{}</text>"#,
        top - 12.0,
        panel.title
    );
    for tick in 0..=4 {
        let value = highest * f64::from(tick) / 4.0;
        let _ = write!(
            svg,
            r##"<line x1="{LEFT}" x2="{}" y1="{1:.1}" y2="{1:.1}" stroke="#ddd"/><text x="{2}" y="{3:.1}" text-anchor="end">{value}</text>"##,
            LEFT + WIDTH,
            y(value),
            LEFT - 6.0,
            y(value) + 4.0
        );
    }
    if let Some(line) = panel.lines.first() {
        for (sessions, _) in &line.points {
            let _ = write!(
                svg,
                r#"<text x="{:.1}" y="{}" text-anchor="middle">{sessions}</text>"#,
                x(*sessions),
                top + HEIGHT + 16.0
            );
        }
    }
    for Line { name, colour, points } in &panel.lines {
        let path: Vec<String> = points
            .iter()
            .map(|(sessions, value)| format!("{:.1},{:.1}", x(*sessions), y(*value)))
            .collect();
        let _ = write!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            path.join(" ")
        );
        if let Some((sessions, value)) = points.last() {
            let _ = write!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" fill="{colour}">{name}</text>"#,
                x(*sessions) + 6.0,
                y(*value) + 4.0
            );
        }
    }
}

/// The next number of the form 1, 2, 4, 6 or 8 times a power of ten.
fn ceiling(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|candidate| *candidate >= value)
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::client::Felt;
    use super::*;

    #[test]
    fn every_row_is_a_point_of_every_line() {
        let row = |sessions: usize, lag| {
            let felt = Felt {
                lags: vec![Duration::from_millis(lag)],
                ..Felt::default()
            };
            let mut row = Row::new(Duration::from_secs(1), &[Ok(felt)], None, None);
            row.sessions = sessions;
            row
        };
        let svg = draw(&[row(1, 500), row(64, 1000)]);
        // p99, p95 and p50 agree where there is one sample: the first at a sixty-fourth of the width and half the height.
        assert_eq!(
            svg.matches(r#"points="70.0,140.0 700.0,30.0""#).count(),
            3,
            "{svg}"
        );
        assert_eq!(svg.matches("<polyline").count(), 5);
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(
            [0.0, 1.0, 3.0, 1211.0, 9000.0].map(ceiling),
            [1.0, 1.0, 4.0, 2000.0, 10_000.0]
        );
    }
}
