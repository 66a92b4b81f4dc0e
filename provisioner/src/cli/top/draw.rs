//! What `top` shows, for terminals of any size.

use provisioner_components::monitoring::vitals::{Alert, Vitals};
use provisioner_core::clock;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table};

use super::{Look, View};
use crate::cli::status::{MemberStatus, memory_tone, shown_usage};
use crate::table::Tone;

/// From here on there is room for two columns of vital signs beside the line of requests.
const WIDE: u16 = 100;
/// Below this, only names and states of members fit.
const NARROW: u16 = 60;

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let Some(look) = &view.look else {
        let text = view.failed.as_deref().unwrap_or("looking");
        return frame.render_widget(Paragraph::new(vec![head(view), Line::from(text)]), area);
    };
    let signs = signs(look);
    let is_wide = area.width >= WIDE;
    let height = if is_wide { signs.len().div_ceil(2) } else { signs.len() };
    let alerts = alerts(look);
    // Members may scroll, so they give way first; of the signs only as much is shown as leaves room for three members.
    let fixed = |count: usize| Constraint::Max(u16::try_from(count).unwrap_or(u16::MAX));
    let [top, middle, low, rest] =
        Layout::vertical([Constraint::Length(1), fixed(height), fixed(alerts.len()), Constraint::Min(4)]).areas(area);
    frame.render_widget(Paragraph::new(head(view)), top);
    if is_wide {
        let [left, right, line] =
            Layout::horizontal([Constraint::Length(36), Constraint::Length(36), Constraint::Min(10)]).areas(middle);
        let (first, second) = signs.split_at(height);
        frame.render_widget(Paragraph::new(first.to_vec()), left);
        frame.render_widget(Paragraph::new(second.to_vec()), right);
        requests(frame, view, line);
    } else {
        frame.render_widget(Paragraph::new(signs), middle);
    }
    frame.render_widget(Paragraph::new(alerts), low);
    members(frame, view, &look.members, rest);
}

fn head(view: &View) -> Line<'static> {
    let mut spans = vec![Span::styled(format!("stack {}", view.stack), Style::new().add_modifier(Modifier::BOLD))];
    if let Some(failed) = &view.failed {
        spans.push(Span::styled(format!("  {failed}"), painted(Tone::Bad)));
    }
    if let Some(look) = &view.look {
        let members = &look.members;
        let running = members.iter().filter(|member| member.is_running()).count();
        let style = if running == members.len() { painted(Tone::Good) } else { painted(Tone::Bad) };
        spans.push(Span::styled(format!("  {running} of {} running", members.len()), style));
        spans.push(Span::raw(format!("  {}", clock::human_time(view.at))));
    }
    if view.is_paused {
        spans.push(Span::styled("  paused", painted(Tone::Warn)));
    }
    spans.push(Span::styled("  q quit, p pause, up and down", painted(Tone::Hint)));
    Line::from(spans)
}

/// The vital signs, a line each; in a stack without monitoring a line that says so.
fn signs(look: &Look) -> Vec<Line<'static>> {
    let vitals = match &look.vitals {
        Some(Ok(vitals)) => vitals,
        Some(Err(error)) => return vec![Line::styled(format!("no vital signs: {error}"), painted(Tone::Bad))],
        None => return vec![Line::raw("no vital signs: the stack has no section monitoring")],
    };
    let Vitals { lag, queues, search, .. } = vitals;
    let number = |value: Option<f64>, unit: &str| value.map_or("-".to_owned(), |value| format!("{value:.1}{unit}"));
    let milliseconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:.0} ms", value * 1000.0));
    let percent = vitals.cache_hits.map_or("-".to_owned(), |ratio| format!("{:.0} %", ratio * 100.0));
    let is_failing = vitals.errors_per_second.is_some_and(|errors| errors > 0.0);
    let mut signs = vec![
        sign("requests", number(vitals.requests_per_second, "/s"), None),
        sign("95 % within", milliseconds(vitals.latency_p95), None),
        sign("errors", number(vitals.errors_per_second, "/s"), is_failing.then_some(Tone::Bad)),
        sign("cache hits", percent, None),
    ];
    signs.extend(lag.iter().map(|(replica, seconds)| sign(&format!("lag {replica}"), format!("{seconds:.1} s"), None)));
    if let Some(color) = search {
        let tone = match color.as_str() {
            "green" => Tone::Good,
            "yellow" => Tone::Warn,
            _ => Tone::Bad,
        };
        let nodes = vitals.search_nodes.unwrap_or_default();
        signs.push(sign("search", format!("{color}, {nodes:.0} nodes"), Some(tone)));
    }
    if let Some(brokers) = vitals.brokers {
        signs.push(sign("brokers", format!("{brokers:.0}"), None));
    }
    // What was given up is shown even when everything else is quiet.
    let busy = queues.iter().filter(|(name, messages)| **messages > 0.0 || !name.starts_with("q.retry"));
    signs.extend(busy.map(|(name, messages)| {
        let is_dead = name.starts_with("q.dead") && *messages > 0.0;
        sign(name, format!("{messages:.0} messages"), is_dead.then_some(Tone::Bad))
    }));
    signs
}

fn sign(name: &str, value: String, tone: Option<Tone>) -> Line<'static> {
    let style = tone.map_or_else(Style::new, painted);
    Line::from(vec![Span::raw(format!("{name:<17} ")), Span::styled(value, style)])
}

fn alerts(look: &Look) -> Vec<Line<'static>> {
    let Some(Ok(vitals)) = &look.vitals else { return Vec::new() };
    if vitals.alerts.is_empty() {
        return vec![Line::styled("no alert fires", painted(Tone::Good))];
    }
    let line =
        |alert: &Alert| Line::styled(format!("{} {} {}", alert.severity, alert.name, alert.about), painted(Tone::Bad));
    vitals.alerts.iter().map(line).collect()
}

fn requests(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let block = Block::new().borders(Borders::LEFT).title("requests");
    let width = usize::from(block.inner(area).width);
    let newest = view.requests.iter().rev().take(width).rev();
    // Tenths, since the line draws whole numbers.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is small and never negative")]
    let values: Vec<u64> = newest.map(|rate| (rate * 10.0) as u64).collect();
    frame.render_widget(Sparkline::default().block(block).data(values), area);
}

fn members(frame: &mut Frame<'_>, view: &View, members: &[MemberStatus], area: Rect) {
    let is_narrow = area.width < NARROW;
    let row = |member: &MemberStatus| {
        let tone = if member.is_running() { Tone::Good } else { Tone::Bad };
        let name = Span::raw(member.member.to_string());
        let state = Span::styled(member.state.clone(), painted(tone));
        if is_narrow {
            return Row::new(vec![name, state]);
        }
        let [memory, cpu, disk] = shown_usage(&member.usage.unwrap_or_default());
        let memory_style = member.usage.as_ref().and_then(memory_tone).map_or_else(Style::new, painted);
        let role = Span::raw(member.role.clone().unwrap_or_else(|| "-".to_owned()));
        Row::new(vec![name, role, state, Span::styled(memory, memory_style), Span::raw(cpu), Span::raw(disk)])
    };
    let rows = members.iter().skip(view.scrolled).map(row);
    let (header, widths) = if is_narrow {
        (Row::new(vec!["MEMBER", "STATE"]), vec![Constraint::Min(20), Constraint::Length(12)])
    } else {
        let lengths = [8, 10, 19, 7, 9].map(Constraint::Length);
        let widths = std::iter::once(Constraint::Min(18)).chain(lengths).collect();
        (Row::new(vec!["MEMBER", "ROLE", "STATE", "MEMORY", "CPU", "DISK"]), widths)
    };
    let header = header.style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

fn painted(tone: Tone) -> Style {
    Style::new().fg(match tone {
        Tone::Good => Color::Green,
        Tone::Bad => Color::Red,
        Tone::Warn => Color::Yellow,
        Tone::Hint => Color::Cyan,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use insta::assert_snapshot;
    use provisioner_core::engine::Usage;
    use provisioner_core::name::Member;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn member(name: &str, role: Option<&str>, state: &str) -> MemberStatus {
        MemberStatus {
            component: String::new(),
            member: Member::named(name),
            role: role.map(str::to_owned),
            state: state.to_owned(),
            image: String::new(),
            addresses: BTreeMap::new(),
            usage: Some(Usage {
                memory_bytes: Some(30 << 20),
                memory_limit_bytes: Some(128 << 20),
                cpu_percent: Some(2.5),
                disk_bytes: Some(70 << 20),
            }),
        }
    }

    fn view(vitals: Option<Result<Vitals, String>>) -> View {
        let members = vec![
            member("nginx-1", None, "running"),
            member("backend-1", None, "running"),
            member("postgres-1", Some("primary"), "running"),
            member("postgres-2", Some("replica"), "exited"),
        ];
        View {
            stack: "dev".to_owned(),
            look: Some(Look { members, vitals }),
            requests: (0..60).map(f64::from).collect(),
            ..View::default()
        }
    }

    fn measured() -> Vitals {
        Vitals {
            requests_per_second: Some(41.26),
            latency_p95: Some(0.0234),
            errors_per_second: Some(0.5),
            cache_hits: Some(0.934),
            lag: BTreeMap::from([("postgres-2".to_owned(), 0.2)]),
            queues: [("q.email", 0.0), ("q.retry.1s", 0.0), ("q.dead.email", 2.0)]
                .map(|(name, messages)| (name.to_owned(), messages))
                .into(),
            brokers: Some(1.0),
            search: Some("yellow".to_owned()),
            search_nodes: Some(2.0),
            alerts: vec![Alert {
                severity: "page".to_owned(),
                name: "TargetDown".to_owned(),
                about: "postgres-2".to_owned(),
            }],
        }
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_wide_terminal_shows_everything() {
        assert_snapshot!("wide", drawn(&view(Some(Ok(measured()))), 120, 20));
    }

    #[test]
    fn forty_columns_show_names_states_and_signs() {
        assert_snapshot!("narrow", drawn(&view(Some(Ok(measured()))), 40, 24));
    }

    #[test]
    fn what_cannot_be_shown_is_said() {
        assert_snapshot!("without_monitoring", drawn(&view(None), 80, 8));
        let silent = view(Some(Err("connection refused".to_owned())));
        assert_snapshot!("monitoring_down", drawn(&silent, 80, 8));
        let gone = View { failed: Some("reach Docker: no answer".to_owned()), is_paused: true, ..silent };
        assert_snapshot!("engine_gone", drawn(&gone, 120, 8));
        assert_snapshot!("nothing_yet", drawn(&View::default(), 60, 3));
    }

    #[test]
    fn no_size_is_too_small() {
        for (width, height) in [(1, 1), (10, 3), (40, 5), (300, 2)] {
            drawn(&view(Some(Ok(measured()))), width, height);
        }
    }
}
