//! The section of the database: its replicas, what commits wait for, and what its drills are judged by.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::read::{Table, excerpt};
use super::sections::{count, flag, keeper};
use super::{Objectives, Postgres, PostgresMember, Synchronous, external};
use crate::name::Member;

const SYNCHRONOUS: [(&str, Synchronous); 3] =
    [("off", Synchronous::Off), ("preferred", Synchronous::Preferred), ("required", Synchronous::Required)];

/// Nobody fails over in less.
const RTO_MIN: Duration = Duration::from_millis(100);

/// What the provisioner decides itself, so that a line for it in postgresql.conf would have no effect.
const POSTGRES_RESERVED: [&str; 21] = [
    "config_file",
    "data_directory",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "include",
    "include_dir",
    "include_if_exists",
    "listen_addresses",
    "max_wal_senders",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "ssl",
    "ssl_cert_file",
    "ssl_key_file",
    "synchronous_standby_names",
    "unix_socket_directories",
    "wal_level",
    "wal_log_hints",
];

pub(super) fn postgres(mut table: Table<'_>) -> Postgres {
    let external = external::postgres(&mut table);
    let replicas = count(&mut table, "replicas", 0, 8).unwrap_or(1);
    let expected =
        "1: PostgreSQL takes writes on one node, and which one it is belongs to run time, not to the manifest";
    let _ = table.value("primaries", expected, |value| (value.as_u64() == Some(1)).then_some(()));
    let postgres = Postgres {
        external,
        service: keeper(&mut table, 384, 1000),
        replicas,
        synchronous: table.choice("synchronous", &SYNCHRONOUS).unwrap_or(Synchronous::Preferred),
        tls: flag(&mut table, "tls"),
        settings: table.settings("settings", is_postgres_setting, ["on", "off"]).into_iter().collect(),
        members: members(&mut table, replicas),
        objectives: objectives(table.section("objectives")),
    };
    if postgres.replicas == 0 && postgres.synchronous == Synchronous::Required {
        table.problem("synchronous", "required with 0 replicas".to_owned(), "at least 1 replica, or preferred or off");
    }
    if postgres.synchronous == Synchronous::Off && postgres.objectives.rpo.is_zero() {
        table.problem("objectives.rpo", "0s with synchronous off".to_owned(), "preferred or required, or some time");
    }
    table.finish();
    postgres
}

fn members(table: &mut Table<'_>, replicas: u32) -> BTreeMap<Member, PostgresMember> {
    let known: Vec<Member> = (1..=replicas + 1).map(|ordinal| Member::nth("postgres", ordinal)).collect();
    let entries = table.entries("members", "", |_| true);
    let mut section = table.section("members");
    let mut members = BTreeMap::new();
    for (name, _) in entries {
        let found = member(section.named_section(&name));
        match known.iter().find(|member| member.as_str() == name) {
            Some(member) => {
                members.insert(member.clone(), found);
            }
            None => {
                let expected = format!("postgres-1 to postgres-{} (with {replicas} replicas)", replicas + 1);
                section.problem(&excerpt(&name), "this name".to_owned(), &expected);
            }
        }
    }
    section.finish();
    let is_excluded = |member: &Member| members.get(member).is_some_and(|found| found.nofailover);
    if known.iter().all(is_excluded) {
        let expected = "one member at least that may become primary";
        table.problem("members", "nofailover on all of them".to_owned(), expected);
    }
    members
}

fn member(mut table: Table<'_>) -> PostgresMember {
    let is_region = |text: &&str| {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=32).contains(&text.len()) && text.chars().all(is_plain)
    };
    let member = PostgresMember {
        region: table.value("region", "1 to 32 lower-case letters, digits or hyphens such as eu-2", |value| {
            value.as_str().filter(is_region).map(str::to_owned)
        }),
        priority: count(&mut table, "priority", 0, 100).unwrap_or(0),
        nofailover: flag(&mut table, "nofailover"),
    };
    table.finish();
    member
}

fn objectives(mut table: Table<'_>) -> Objectives {
    let most = Objectives::ARCHITECTURE;
    let mut duration = |key, expected, at_least, at_most| {
        let read = |value: &Value| {
            let duration = humantime::parse_duration(value.as_str()?).ok()?;
            (at_least..=at_most).contains(&duration).then_some(duration)
        };
        table.value(key, expected, read).unwrap_or(at_most)
    };
    let objectives = Objectives {
        rto: duration("rto", "a time from 100ms to 15min such as 5s", RTO_MIN, most.rto),
        rpo: duration("rpo", "a time from 0s to 1min such as 500ms", Duration::ZERO, most.rpo),
    };
    table.finish();
    objectives
}

/// Parameter names, custom ones with a dot included (PostgreSQL 17 docs, 19.1.2 and 19.16).
fn is_postgres_setting(name: &str) -> bool {
    !POSTGRES_RESERVED.contains(&name)
        && !name.starts_with("provisioner.")
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.')
}
