//! Judges a ledger that was kept on somebody else's cluster, as the drills judge their own: one line of JSON.
//!
//! `judge FAULT SYNCHRONOUS FAULT_UNIX_US JOURNAL PRIMARY_ROWS [REPLICA_ROWS...]`; rows are what members hold of the run,
//! one line each: `e WRITER NUMBER` through the route, `m MEMBER NUMBER` written on a member directly. A file of rows
//! is called as its member.

#![allow(clippy::print_stdout, reason = "its answer is one line")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use provisioner_core::manifest::{Objectives, Synchronous};
use provisioner_core::name::Member;
use provisioner_drills::Rows;
use provisioner_drills::journal::Journal;
use provisioner_drills::judge::{Case, Held, Stage, judge};
use serde_json::json;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [fault, synchronous, fault_unix_us, journal, rows @ ..] = &words[..] else {
        return Err("usage: judge FAULT off|preferred|required FAULT_UNIX_US JOURNAL ROWS...".into());
    };
    let synchronous = match synchronous.as_str() {
        "off" => Synchronous::Off,
        "preferred" => Synchronous::Preferred,
        "required" => Synchronous::Required,
        other => return Err(format!("found {other:?}, expected off, preferred or required").into()),
    };
    let journal = Journal::parse(&fs::read_to_string(journal)?)?;
    let stages = std::iter::once(Stage::Primary).chain(std::iter::repeat(Stage::Rebuilt));
    let held: Vec<Held> = rows.iter().zip(stages).map(|(path, stage)| read(path, stage)).collect::<Result<_, _>>()?;
    let verdict = judge(&Case {
        engine: "patroni",
        fault,
        synchronous,
        objectives: Objectives::ARCHITECTURE,
        journal: &journal,
        fault_us: journal.at_unix_us(fault_unix_us.parse()?),
        held: &held,
        phases: Vec::new(),
        unprotected_ms: 0,
        members_before: BTreeMap::new(),
        members_after: BTreeMap::new(),
    });
    let mut line = serde_json::to_value(&verdict)?;
    // What a client with a session of its own was promised by whichever member, and the primary does not hold.
    let is_kept = |member: usize, number| {
        u16::try_from(member).is_ok_and(|member| held.first().is_some_and(|held| held.answers.contains(member, number)))
    };
    let direct = journal.answers.iter().filter(|answer| answer.is_acked && !is_kept(answer.member, answer.number));
    line["direct_rows_lost"] = json!(direct.count());
    line["breaches"] = json!(verdict.breaches.iter().map(ToString::to_string).collect::<Vec<_>>());
    println!("{line}");
    Ok(())
}

fn read(path: &str, stage: Stage) -> Result<Held, Failed> {
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).ok_or("a file of rows has no name")?;
    let mut found: [Vec<(u16, u64)>; 2] = Default::default();
    for line in fs::read_to_string(path)?.lines() {
        let [kind, who, number] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("{path}: found {line:?}, expected KIND WHO NUMBER").into());
        };
        let rows = match kind {
            "e" => &mut found[0],
            "m" => &mut found[1],
            other => return Err(format!("{path}: found {other:?}, expected e or m").into()),
        };
        rows.push((who.parse()?, number.parse()?));
    }
    let [rows, answers] = found.map(|rows| rows.into_iter().collect::<Rows>());
    Ok(Held { member: Member::named(name), stage, rows, answers })
}
