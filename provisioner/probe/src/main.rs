//! What the provisioner runs inside a stack, as one static binary in an image of its own.

mod ledger;
mod settings;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;

const USAGE: &str = "usage: probe ledger";
/// As everywhere in the provisioner.
const USAGE_EXIT: u8 = 64;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let ["ledger"] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
        complain(USAGE);
        return ExitCode::from(USAGE_EXIT);
    };
    let settings = match settings::Settings::read() {
        Ok(settings) => settings,
        Err(problems) => {
            complain(&problems.to_string());
            return ExitCode::from(USAGE_EXIT);
        }
    };
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(settings: settings::Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("start the async runtime")?;
    runtime.block_on(ledger::run(settings))
}

/// Where nobody reads the last words there is nobody to tell.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "probe: {text}");
}
