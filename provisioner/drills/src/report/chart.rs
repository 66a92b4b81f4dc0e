//! The ledger over time: what became of rows, and which phase ran meanwhile.

use std::ops::Range;
use std::time::Duration;

use minijinja::{AutoEscape, Environment, context};
use plotters::prelude::*;

use crate::journal::{Journal, Outcome};
use crate::judge::Verdict;

const SIZE: (u32, u32) = (1100, 460);
/// The width of a bar of time.
const BUCKET_US: u64 = 100_000;
const FONT: &str = "sans-serif";

/// So that neighbouring phases differ.
const BANDS: [RGBColor; 2] = [RGBColor(0x7f, 0x8c, 0xc9), RGBColor(0xd9, 0xa0, 0x66)];
const SERIES: [(Outcome, &str, RGBColor); 3] = [
    (Outcome::Acked, "acknowledged", RGBColor(0x2a, 0x7f, 0x4f)),
    (Outcome::Refused, "refused", RGBColor(0xc0, 0x39, 0x2b)),
    (Outcome::Unknown, "unknown", RGBColor(0x8e, 0x44, 0xad)),
];

#[derive(Debug, thiserror::Error)]
#[error("draw the ledger: {0}")]
pub struct ChartError(String);

/// A page of its own, with nothing to fetch.
pub fn html(verdict: &Verdict, journal: &Journal, fault_us: u64) -> Result<String, ChartError> {
    let chart = svg(verdict, journal, fault_us)?;
    let failed = |error: minijinja::Error| ChartError(format!("{error:#}"));
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let template = include_str!("../../recipes/report/drill.html.j2");
    environment.add_template("drill.html", template).map_err(failed)?;
    let page = environment.get_template("drill.html").map_err(failed)?;
    let text = super::human(verdict);
    page.render(context! { fault => verdict.fault.as_str(), text, chart => minijinja::Value::from_safe_string(chart) })
        .map_err(failed)
}

/// Rows of one outcome in every tenth of a second, by when they were settled.
fn histogram(journal: &Journal, outcome: Outcome) -> Vec<u32> {
    let buckets = usize::try_from(journal.last_us() / BUCKET_US).unwrap_or(0) + 1;
    let mut counts = vec![0; buckets];
    for entry in journal.entries.iter().filter(|entry| entry.outcome == outcome) {
        let at = usize::try_from(entry.end_us() / BUCKET_US).unwrap_or(usize::MAX);
        if let Some(count) = counts.get_mut(at) {
            *count += 1;
        }
    }
    counts
}

/// Seconds since the fault, below zero before it.
fn seconds(us: u64, fault_us: u64) -> f64 {
    let of = |us: u64| Duration::from_micros(us).as_secs_f64();
    of(us) - of(fault_us)
}

fn svg(verdict: &Verdict, journal: &Journal, fault_us: u64) -> Result<String, ChartError> {
    let series: Vec<Series> = SERIES
        .into_iter()
        .map(|(outcome, name, color)| {
            let counts = histogram(journal, outcome);
            let points: Vec<(f64, u32)> =
                (0..).zip(counts).map(|(at, count)| (seconds(at * BUCKET_US, fault_us), count)).collect();
            Series { points, name, color }
        })
        .collect();
    let highest = series.iter().flat_map(|series| &series.points).map(|(_, count)| *count).max().unwrap_or(0);
    let (begin, end) = (seconds(0, fault_us), seconds(journal.last_us() + BUCKET_US, fault_us));
    let mut text = String::new();
    draw(&mut text, verdict, &series, (begin..end, 0..highest + highest / 10 + 1), fault_us)
        .map_err(|error| ChartError(error.to_string()))?;
    Ok(text)
}

/// One line of the chart.
struct Series {
    /// Seconds since the fault, rows.
    points: Vec<(f64, u32)>,
    name: &'static str,
    color: RGBColor,
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(
    text: &'a mut String,
    verdict: &Verdict,
    series: &[Series],
    (time, rows): (Range<f64>, Range<u32>),
    fault_us: u64,
) -> Drawn<'a> {
    let top = rows.end;
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(time, rows)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds since the fault")
        .y_desc("rows in 100 ms")
        .label_style((FONT, 13))
        .draw()?;
    for (at, phase) in verdict.phases.iter().enumerate() {
        let begin = seconds(phase.began_us, fault_us);
        let end = begin + Duration::from_millis(phase.took_ms).as_secs_f64();
        let color = BANDS[at % BANDS.len()].mix(0.25).filled();
        chart.draw_series([Rectangle::new([(begin, 0), (end, top)], color)])?;
        // Below each other, for short phases are narrower than their names.
        let at = u32::try_from(at).unwrap_or(0) % 8;
        let height = top - top * at / 20;
        chart.draw_series([Text::new(phase.name.clone(), (begin, height), (FONT, 12))])?;
    }
    for Series { points, name, color } in series {
        let style = color.stroke_width(2);
        let line = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        line.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart.draw_series([PathElement::new([(0.0, 0), (0.0, top)], BLACK.stroke_width(1))])?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 13))
        .draw()?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_the_tenth_of_a_second_in_which_it_was_settled() {
        let text = "ledger 1 1 1 a\na 0 1 0 99999\na 0 2 0 100000\nr 0 3 150000 10\na 0 4 310000 1\n";
        let journal = Journal::parse(text).unwrap();
        assert_eq!(histogram(&journal, Outcome::Acked), [1, 1, 0, 1]);
        assert_eq!(histogram(&journal, Outcome::Refused), [0, 1, 0, 0]);
    }
}
