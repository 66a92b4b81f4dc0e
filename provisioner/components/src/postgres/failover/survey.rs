//! What every member says of itself, asked all at once and each within a second: a member that hangs must not hold up
//! the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::{join, join_all};
use provisioner_core::component::Access;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::observed::State;

use super::super::NAME;
use super::super::cluster::Cluster;
use super::super::encryption::Encryption;
use super::super::login::{HOME, Login};
use super::super::lsn::Lsn;
use super::super::sql::{Session, SqlError, Target, WRITING_TIMELINE};
use crate::route;

pub(super) const ASK_LIMIT: Duration = Duration::from_secs(1);

/// The cluster as the record has it and as its members are.
#[derive(Clone, Debug)]
pub struct Survey {
    pub cluster: Cluster,
    pub members: BTreeMap<Member, Seen>,
    /// Whether each member of the route answers.
    pub route: BTreeMap<Member, Result<(), String>>,
}

/// One member, by the engine and by itself.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `None`: the engine has no such member.
    pub state: Option<State>,
    /// What it answered, or why it did not.
    pub told: Result<Told, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub system_id: String,
    pub in_recovery: bool,
    /// The one that it writes, or that its receiver last wrote.
    pub timeline: u32,
    /// The end of the WAL that it has: of a replica what it has received, of a primary what it has written.
    pub received: Lsn,
    pub replayed: Lsn,
    pub replay_paused: bool,
    /// Of a replica: the host that it is told to follow; empty: nobody.
    pub upstream: String,
    /// Of a replica: since its receiver last heard from the primary; `None`: it has no receiver.
    pub heard_ms_ago: Option<u64>,
    /// Of a replica: where the primary's WAL ended when it last told.
    pub primary_end: Option<Lsn>,
    /// Of a primary: who streams from it.
    pub streaming: BTreeSet<Member>,
    pub synchronous_names: String,
    /// Archiving is on and its last attempt failed.
    pub archiving_fails: bool,
    /// Archiving is on, and these wait for longer than it should take.
    pub unarchived: Option<Unarchived>,
    /// Its disk has no room for a file that it would throw away at once, let alone for a row.
    pub is_full: bool,
    pub free_walsenders: i64,
    pub free_slots: i64,
    pub backups_running: i64,
}

/// WAL files that wait to be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unarchived {
    pub files: i64,
    pub oldest_secs: i64,
}

impl Survey {
    pub fn told(&self, member: &Member) -> Option<&Told> {
        self.members.get(member)?.told.as_ref().ok()
    }

    /// Members other than `member` that take writes.
    pub fn other_primaries(&self, member: &Member) -> Vec<&Member> {
        let writes = |seen: &Seen| seen.told.as_ref().is_ok_and(|told| !told.in_recovery);
        self.members.iter().filter(|(name, seen)| *name != member && writes(seen)).map(|(name, _)| name).collect()
    }
}

/// `lost` says why the primary is not asked any more: one that hangs would only take its second.
pub async fn survey(access: &Access<'_>, lost: Option<&str>) -> Result<Survey, Failure> {
    let cluster = Cluster::current(access).await?;
    let asker = Asker::new(access).await?;
    let declared = access.stack.members(NAME).map(|workload| &workload.member);
    let known: BTreeSet<&Member> = declared.chain(cluster.replicas.iter()).chain([&cluster.primary]).collect();
    let asked = known.into_iter().map(|member| {
        let (asker, lost) = (&asker, lost.filter(|_| *member == cluster.primary));
        async move {
            let state = access.observed.workload(member).map(|found| found.state);
            let told = match lost {
                Some(reason) => Err(reason.to_owned()),
                None => asker.told(access, member).await,
            };
            (member.clone(), Seen { state, told })
        }
    });
    let (members, route) = join(join_all(asked), route::answers(access)).await;
    Ok(Survey { cluster, members: members.into_iter().collect(), route })
}

/// Holds what every question needs, so that asking again costs one connection.
pub(super) struct Asker {
    password: String,
    encryption: Encryption,
}

const QUESTION: &str = "SELECT (SELECT system_identifier::text FROM pg_control_system()), pg_is_in_recovery(), \
     coalesce(pg_last_wal_receive_lsn(), '0/0')::text, \
     coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, '0/0')::text, \
     coalesce(CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, false), \
     coalesce(substring(current_setting('primary_conninfo') FROM 'host=([^ ]*)'), ''), \
     (SELECT (extract(epoch FROM clock_timestamp() - last_msg_receipt_time) * 1000)::bigint FROM pg_stat_wal_receiver), \
     (SELECT latest_end_lsn::text FROM pg_stat_wal_receiver), \
     ARRAY(SELECT application_name FROM pg_stat_replication WHERE state = 'streaming' ORDER BY 1), \
     current_setting('synchronous_standby_names'), \
     current_setting('archive_mode') <> 'off' AND (SELECT coalesce(last_failed_time > \
         coalesce(last_archived_time, '-infinity'), false) FROM pg_stat_archiver), \
     current_setting('max_wal_senders')::bigint - (SELECT count(*) FROM pg_stat_replication), \
     current_setting('max_replication_slots')::bigint - (SELECT count(*) FROM pg_replication_slots), \
     (SELECT count(*) FROM pg_stat_progress_basebackup), ";

/// A replica has files that wait as well where it was primary before; it does not archive them.
const UNARCHIVED: &str = "CASE WHEN current_setting('archive_mode') = 'off' OR pg_is_in_recovery() THEN ARRAY[0, 0] ELSE \
     (SELECT ARRAY[count(*), coalesce(extract(epoch FROM clock_timestamp() - min(modification)), 0)::bigint] \
      FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready' \
      AND modification < clock_timestamp() - interval '3 s') END::bigint[], ";

/// Of a replica without a receiver, such as a frozen one. Its control file shows the former timeline until the next restart
/// point, minutes after a promotion; the names of its WAL files (timeline, log, segment) show what it has received.
const LAST_TIMELINE: &str = "SELECT max(('x' || left(name, 8))::bit(32)::int) FROM pg_ls_waldir() \
                             WHERE name ~ '^[0-9A-F]{24}$'";

/// A result that is too large for its memory goes to a file for as long as the statement runs: 0.8 MB, which say whether
/// there is room, and change nothing.
const SPILL: &str =
    "SET temp_tablespaces = ''; SET work_mem = '64kB'; SELECT count(*) FROM generate_series(1, 40000); RESET work_mem";
/// A disk that is slow is not full.
const SPILL_LIMIT: Duration = Duration::from_millis(300);
pub(super) const DISK_FULL: &str = "53100";

/// What the server says if its disk is full.
pub(super) async fn full(session: &Session) -> Option<String> {
    match tokio::time::timeout(SPILL_LIMIT, session.execute(SPILL)).await {
        Ok(Err(error @ SqlError::Server { .. })) if error.code() == Some(DISK_FULL) => Some(error.to_string()),
        _ => None,
    }
}

impl Asker {
    pub(super) async fn new(access: &Access<'_>) -> Result<Self, Failure> {
        let password = access.secret(Login::Superuser.secret()).await?;
        let encryption = Encryption::of(access).await.map_err(Failure::new)?;
        Ok(Self { password, encryption })
    }

    pub(super) async fn session(&self, access: &Access<'_>, member: &Member) -> Result<Session, SqlError> {
        let address = access.published(member, super::super::PORT);
        let address = address.map_err(|error| SqlError::Connection(error.to_string()))?;
        let target = Target {
            address,
            name: member.as_str(),
            encryption: &self.encryption,
            role: Login::Superuser.role(),
            password: Some(&self.password),
            database: HOME,
        };
        Session::open(&target, ASK_LIMIT).await
    }

    async fn told(&self, access: &Access<'_>, member: &Member) -> Result<Told, String> {
        let asked = async {
            let session = self.session(access, member).await.map_err(|error| error.to_string())?;
            let timeline = format!(
                "CASE WHEN pg_is_in_recovery() THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), \
                 ({LAST_TIMELINE})) ELSE {WRITING_TIMELINE} END"
            );
            let row = session
                .row(&format!("{QUESTION}{UNARCHIVED}{timeline}"), &[])
                .await
                .map_err(|error| error.to_string())?;
            let mut told = Told::read(&row)?;
            told.is_full = full(&session).await.is_some();
            Ok(told)
        };
        let told = tokio::time::timeout(ASK_LIMIT, asked).await;
        told.unwrap_or_else(|_| Err(format!("no answer within {} ms", ASK_LIMIT.as_millis())))
    }
}

impl Told {
    fn read(row: &tokio_postgres::Row) -> Result<Self, String> {
        let failed = |error: tokio_postgres::Error| error.to_string();
        let lsn = |column: usize| -> Result<Lsn, String> {
            row.try_get::<_, &str>(column).map_err(failed)?.parse().map_err(|error| format!("{error}"))
        };
        let (received, replayed) = (lsn(2)?, lsn(3)?);
        let primary_end = row.try_get::<_, Option<&str>>(7).map_err(failed)?;
        let heard: Option<i64> = row.try_get(6).map_err(failed)?;
        let streaming: Vec<String> = row.try_get(8).map_err(failed)?;
        let timeline: i32 = row.try_get(15).map_err(failed)?;
        let unarchived: Vec<i64> = row.try_get(14).map_err(failed)?;
        Ok(Self {
            system_id: row.try_get(0).map_err(failed)?,
            in_recovery: row.try_get(1).map_err(failed)?,
            timeline: u32::try_from(timeline).map_err(|error| error.to_string())?,
            // A replica that was started since has received nothing yet, and has replayed what it had.
            received: received.max(replayed),
            replayed,
            replay_paused: row.try_get(4).map_err(failed)?,
            upstream: row.try_get(5).map_err(failed)?,
            heard_ms_ago: heard.map(|ms| u64::try_from(ms).unwrap_or_default()),
            primary_end: primary_end.and_then(|text| text.parse().ok()),
            streaming: streaming.into_iter().map(Member::named).collect(),
            synchronous_names: row.try_get(9).map_err(failed)?,
            archiving_fails: row.try_get(10).map_err(failed)?,
            unarchived: match unarchived[..] {
                [files, oldest_secs] if files > 0 => Some(Unarchived { files, oldest_secs }),
                _ => None,
            },
            is_full: false,
            free_walsenders: row.try_get(11).map_err(failed)?,
            free_slots: row.try_get(12).map_err(failed)?,
            backups_running: row.try_get(13).map_err(failed)?,
        })
    }
}
