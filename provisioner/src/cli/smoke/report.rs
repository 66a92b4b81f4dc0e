//! What became of a smoke, for people, for programs and for CI servers.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use provisioner_core::finding::{Finding, Verdict};
use provisioner_core::name::StackName;
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

use crate::cli::exit::{self, Exit, Stop};
use crate::progress::{millis, seconds};
use crate::report::counted;
use crate::table::{Table, Tone};

/// The parts of a smoke, in order.
pub(super) const CASES: [&str; 5] = ["up", "verify", "order", "recover", "down"];

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) stack: StackName,
    pub(super) cases: Vec<Case>,
    pub(super) took_ms: u64,
    /// Where logs and findings of a failure are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) artifacts: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Case {
    name: &'static str,
    #[serde(flatten)]
    result: CaseResult,
    took_ms: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Finding>,
    /// Parts that were not tried, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_run: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(super) enum CaseResult {
    Passed {
        evidence: String,
    },
    Failed {
        error: String,
        hints: Vec<String>,
        #[serde(skip)]
        exit: Exit,
    },
    Skipped {
        because: String,
    },
}

/// What a case brings back besides its own error.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) findings: Vec<Finding>,
    pub(super) not_run: Vec<String>,
}

impl Report {
    pub(super) fn add(&mut self, name: &'static str, took: Duration, result: anyhow::Result<CaseResult>, seen: Seen) {
        let result = result.unwrap_or_else(|error| CaseResult::Failed {
            error: format!("{error:#}"),
            hints: exit::hints(&error),
            exit: exit::of(&error),
        });
        let Seen { findings, not_run } = seen;
        self.cases.push(Case { name, result, took_ms: millis(took), findings, not_run });
    }

    pub(super) fn failed(&self) -> impl Iterator<Item = (&'static str, Exit)> {
        self.cases.iter().filter_map(|case| match &case.result {
            CaseResult::Failed { exit, .. } => Some((case.name, *exit)),
            _ => None,
        })
    }

    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.cases.iter().flat_map(|case| &case.findings)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed().next().is_some()
    }

    /// One line a case, then what failed with what it says and what to do next.
    pub(super) fn human(&self, color: bool) -> String {
        let mut table = Table::default();
        for case in &self.cases {
            let (word, tone, text) = match &case.result {
                CaseResult::Passed { evidence } => ("pass", Tone::Good, evidence.as_str()),
                CaseResult::Failed { error, .. } => ("fail", Tone::Bad, error.as_str()),
                CaseResult::Skipped { because } => ("skip", Tone::Warn, because.as_str()),
            };
            table.row(vec![
                (word.to_owned(), Some(tone)),
                (case.name.to_owned(), None),
                (seconds(Duration::from_millis(case.took_ms)), None),
                (one_line(text), None),
            ]);
        }
        let mut text = table.render(color);
        for case in &self.cases {
            for part in &case.not_run {
                text.push_str(&format!("not run: {part}\n"));
            }
            let is_told = |finding: &Finding| match &case.result {
                CaseResult::Failed { error, .. } => error.contains(&finding.evidence),
                _ => false,
            };
            let bad = case.findings.iter().filter(|finding| finding.verdict != Verdict::Pass && !is_told(finding));
            for Finding { component, check, verdict, evidence, .. } in bad {
                text.push_str(&format!("{}: {verdict} {component}.{check}: {}\n", case.name, one_line(evidence)));
            }
        }
        let count = |is: fn(&CaseResult) -> bool| self.cases.iter().filter(|case| is(&case.result)).count();
        let passed = count(|result| matches!(result, CaseResult::Passed { .. }));
        let took = seconds(Duration::from_millis(self.took_ms));
        text.push_str(&format!(
            "smoke {}: {passed} of {} passed in {took}\n",
            self.stack,
            counted(CASES.len(), "case")
        ));
        text
    }

    /// The first failure decides how the process ends; all are named.
    pub(super) fn conclude(&self) -> Result<(), Stop> {
        let Some((_, exit)) = self.failed().next() else { return Ok(()) };
        let names: Vec<&str> = self.failed().map(|(name, _)| name).collect();
        let mut stop = Stop::new(exit, format!("smoke {}: failed: {}", self.stack, names.join(", ")));
        for case in &self.cases {
            if let CaseResult::Failed { hints, .. } = &case.result {
                stop = hints.iter().fold(stop, Stop::hint);
            }
        }
        Err(stop)
    }

    /// Like the output of a test program: a suite of the cases, and one of the single checks of each case.
    fn junit(&self) -> quick_junit::Report {
        let mut report = quick_junit::Report::new(format!("smoke {}", self.stack));
        report.set_time(Duration::from_millis(self.took_ms));
        let mut cases = TestSuite::new("smoke");
        cases.set_time(Duration::from_millis(self.took_ms));
        cases.add_test_cases(self.cases.iter().map(Case::junit));
        report.add_test_suite(cases);
        for case in &self.cases {
            let mut suite = TestSuite::new(format!("smoke.{}", case.name));
            suite.add_test_cases(case.findings.iter().map(|finding| finding_junit(case.name, finding)));
            suite.add_test_cases(case.not_run.iter().map(|part| {
                let (name, why) = part.split_once(": ").unwrap_or((part, part));
                let mut skipped = TestCase::new(name, skipped(why));
                skipped.set_classname(format!("smoke.{}", case.name));
                skipped
            }));
            if !suite.test_cases.is_empty() {
                report.add_test_suite(suite);
            }
        }
        report
    }

    pub(super) fn write_junit(&self, file: &Path) -> anyhow::Result<()> {
        let text = self.junit().to_string().context("write the JUnit report")?;
        let written = std::fs::File::create(file).and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| format!("write {}", file.display()))
    }
}

impl Case {
    fn junit(&self) -> TestCase {
        let status = match &self.result {
            CaseResult::Passed { .. } => TestCaseStatus::success(),
            CaseResult::Skipped { because } => skipped(because),
            CaseResult::Failed { error, hints, exit } => {
                // What could not be told is an error, as in other test programs; what is wrong is a failure.
                let kind = if *exit == Exit::VerifyFailed { NonSuccessKind::Failure } else { NonSuccessKind::Error };
                let mut status = TestCaseStatus::non_success(kind);
                status.set_message(error.as_str());
                let hints: Vec<String> = hints.iter().map(|hint| format!("hint: {hint}")).collect();
                status.set_description(hints.join("\n"));
                status
            }
        };
        let mut case = TestCase::new(self.name, status);
        case.set_classname("smoke").set_time(Duration::from_millis(self.took_ms));
        if let CaseResult::Passed { evidence } = &self.result {
            case.set_system_out(evidence.as_str());
        }
        case
    }
}

fn finding_junit(of: &str, finding: &Finding) -> TestCase {
    let non_success = |kind| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_message(finding.evidence.as_str());
        status
    };
    let status = match finding.verdict {
        Verdict::Pass => TestCaseStatus::success(),
        Verdict::Fail => non_success(NonSuccessKind::Failure),
        Verdict::Unknown => non_success(NonSuccessKind::Error),
    };
    let mut case = TestCase::new(finding.check.as_str(), status);
    case.set_classname(format!("smoke.{of}.{}", finding.component)).set_time(Duration::from_millis(finding.took_ms));
    case
}

/// A page that an app answered with is no column of a table.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn skipped(because: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(because);
    status
}
