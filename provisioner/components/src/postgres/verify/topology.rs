//! Members agree with each other and with the record.

use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::manifest::Synchronous;
use provisioner_core::name::Member;

use super::{Scene, listed, unknown};
use crate::postgres::login::{HOME, Login};
use crate::postgres::run::slot_name;
use crate::postgres::sql::WRITING_TIMELINE;
use crate::postgres::{NAME, synchronous};

pub(super) async fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = vec![
        check(NAME, "one-primary", Level::L3, one_primary(scene)).await,
        check(NAME, "same-system", Level::L3, same_system(scene)).await,
        check(NAME, "data-safety", Level::L3, data_safety(scene)).await,
        check(NAME, "no-trust", Level::L3, no_trust(scene)).await,
        check(NAME, "synchronous-policy", Level::L3, synchronous_policy(scene)).await,
    ];
    if scene.replicas().next().is_some() {
        findings.push(check(NAME, "receivers-streaming", Level::L3, receivers_streaming(scene)).await);
        findings.push(check(NAME, "slots-active", Level::L3, slots_active(scene)).await);
    }
    findings
}

async fn one_primary(scene: &Scene<'_>) -> Result<String, Broken> {
    let seen = scene.each(scene.members.iter(), async |member: Member| {
        let session = scene.open(&member, Login::Superuser, HOME).await?;
        let in_recovery = session.flag("SELECT pg_is_in_recovery()").await.map_err(|error| unknown(&member, error))?;
        Ok(if in_recovery { "replica" } else { "primary" })
    });
    let seen = seen.await?;
    let expected = |member: &Member| if *member == scene.cluster.primary { "primary" } else { "replica" };
    match seen.iter().all(|(member, role)| *role == expected(member)) {
        true => Ok(listed(&seen)),
        false => Err(Broken::Fail(format!("{}, expected {} as the one primary", listed(&seen), scene.cluster.primary))),
    }
}

async fn same_system(scene: &Scene<'_>) -> Result<String, Broken> {
    let expected = &scene.cluster.system_id;
    let seen = scene.each(scene.members.iter(), async |member: Member| {
        let session = scene.open(&member, Login::Superuser, HOME).await?;
        let query = "SELECT system_identifier::text FROM pg_control_system()";
        session.text(query, &[]).await.map_err(|error| unknown(&member, error))
    });
    let seen = seen.await?;
    match seen.iter().all(|(_, found)| found == expected) {
        true => Ok(format!("system identifier {expected} on {} members", seen.len())),
        false => Err(Broken::Fail(format!("{}, expected {expected}", listed(&seen)))),
    }
}

/// What a rejoin by pg_rewind and the detection of rotten pages rest on.
async fn data_safety(scene: &Scene<'_>) -> Result<String, Broken> {
    const WANTED: [(&str, &str); 4] = [
        ("data_checksums", "on"),
        ("wal_log_hints", "on"),
        ("full_page_writes", "on"),
        ("password_encryption", "scram-sha-256"),
    ];
    let seen = scene.each(scene.members.iter(), async |member: Member| {
        let session = scene.open(&member, Login::Superuser, HOME).await?;
        for (setting, wanted) in WANTED {
            let found = session.text("SELECT current_setting($1)", &[&setting]).await;
            let found = found.map_err(|error| unknown(&member, error))?;
            if found != wanted {
                return Err(Broken::Fail(format!("{setting} on {member} is {found}, expected {wanted}")));
            }
        }
        Ok(())
    });
    let members = seen.await?.len();
    let settings: Vec<String> = WANTED.iter().map(|(setting, value)| format!("{setting} {value}")).collect();
    Ok(format!("{} on {members} members", settings.join(", ")))
}

async fn no_trust(scene: &Scene<'_>) -> Result<String, Broken> {
    let seen = scene.each(scene.members.iter(), async |member: Member| {
        let session = scene.open(&member, Login::Superuser, HOME).await?;
        let query = "SELECT line_number, type, auth_method, error FROM pg_hba_file_rules \
                     WHERE error IS NOT NULL OR (type <> 'local' AND auth_method NOT IN ('scram-sha-256', 'reject')) \
                     OR (type = 'local' AND auth_method = 'trust')";
        let rules = session.rows(query, &[]).await.map_err(|error| unknown(&member, error))?;
        let Some(rule) = rules.first() else { return Ok("scram-sha-256 only") };
        let read = || {
            let (line, kind, method): (i32, Option<String>, Option<String>) =
                (rule.try_get(0)?, rule.try_get(1)?, rule.try_get(2)?);
            let error: Option<String> = rule.try_get(3)?;
            let words = [kind, method, error].into_iter().flatten().collect::<Vec<_>>().join(" ");
            Ok::<_, tokio_postgres::Error>(format!("line {line} of pg_hba.conf on {member}: {words}"))
        };
        Err(read().map_or_else(|error| unknown(&member, error), Broken::Fail))
    });
    Ok(listed(&seen.await?))
}

/// Streaming alone is not proof: a diverged member streams at times. Its WAL must be of the primary's timeline.
async fn receivers_streaming(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    let session = scene.open(primary, Login::Superuser, HOME).await?;
    let timeline = session
        .text(&format!("SELECT ({WRITING_TIMELINE})::text"), &[])
        .await
        .map_err(|error| unknown(primary, error))?;
    let seen = scene.each(scene.replicas(), async |replica: Member| {
        let session = scene.open(&replica, Login::Superuser, HOME).await?;
        let query = "SELECT coalesce((SELECT format('%s from %s on timeline %s', status, sender_host, received_tli) \
                     FROM pg_stat_wal_receiver), 'no receiver')";
        session.text(query, &[]).await.map_err(|error| unknown(&replica, error))
    });
    let seen = seen.await?;
    let expected = format!("streaming from {primary} on timeline {timeline}");
    match seen.iter().all(|(_, found)| *found == expected) {
        true => Ok(listed(&seen)),
        false => Err(Broken::Fail(format!("{}, expected {expected}", listed(&seen)))),
    }
}

async fn slots_active(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    let session = scene.open(primary, Login::Superuser, HOME).await?;
    let mut seen = Vec::new();
    for replica in scene.replicas() {
        let query = "SELECT coalesce((SELECT format('%s, %s', CASE WHEN active THEN 'active' ELSE 'inactive' END, \
                     wal_status) FROM pg_replication_slots WHERE slot_name = $1), 'missing')";
        let found = session.text(query, &[&slot_name(replica)]).await.map_err(|error| unknown(primary, error))?;
        seen.push((replica.clone(), found));
    }
    match seen.iter().all(|(_, found)| found == "active, reserved") {
        true => Ok(listed(&seen)),
        false => Err(Broken::Fail(format!("{}, expected active, reserved", listed(&seen)))),
    }
}

async fn synchronous_policy(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    let policy = synchronous::policy(scene.access.stack);
    let session = scene.open(primary, Login::Superuser, HOME).await?;
    let query = "SELECT current_setting('synchronous_standby_names')";
    let names = session.text(query, &[]).await.map_err(|error| unknown(primary, error))?;
    let query = "SELECT application_name, sync_state FROM pg_stat_replication WHERE state = 'streaming' ORDER BY 1";
    let rows = session.rows(query, &[]).await.map_err(|error| unknown(primary, error))?;
    let mut states = Vec::new();
    for row in &rows {
        let read = || Ok::<(String, String), tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?));
        let (name, state) = read().map_err(|error| unknown(primary, error))?;
        states.push((Member::named(name), state));
    }
    let is_covered = states.iter().any(|(_, state)| state == "quorum" || state == "sync");
    let seen = match (names.is_empty(), states.is_empty()) {
        (true, _) => "commits wait for nobody".to_owned(),
        (false, true) => format!("commits wait for {names}, and no replica streams"),
        (false, false) => format!("commits wait for {names}; {}", listed(&states)),
    };
    match (policy, names.is_empty(), is_covered) {
        (Synchronous::Off, true, _) | (Synchronous::Preferred | Synchronous::Required, false, true) => Ok(seen),
        (Synchronous::Preferred, true, _) if scene.replicas().next().is_none() => Ok(format!("{seen}: no replica")),
        (Synchronous::Off, false, _) => Err(Broken::Fail(format!("{seen}, expected nobody: the policy is off"))),
        (Synchronous::Preferred, true, _) => {
            Err(Broken::Fail(format!("{seen}: unprotected, expected a replica by the policy preferred")))
        }
        (Synchronous::Preferred | Synchronous::Required, _, _) => {
            Err(Broken::Fail(format!("{seen}, expected one that acknowledges")))
        }
    }
}
