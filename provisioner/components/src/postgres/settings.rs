//! Values for postgresql.conf: derived from the manifest's memory, or given in the manifest.

use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

/// Parameters that a running server does not take over: context `postmaster` in `pg_settings` of PostgreSQL 17, those
/// of its extensions included.
const AT_START_ONLY: [&str; 67] = [
    "archive_mode",
    "autovacuum_freeze_max_age",
    "autovacuum_max_workers",
    "autovacuum_multixact_freeze_max_age",
    "bonjour",
    "bonjour_name",
    "cluster_name",
    "commit_timestamp_buffers",
    "config_file",
    "data_directory",
    "data_sync_retry",
    "debug_io_direct",
    "dynamic_shared_memory_type",
    "event_source",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "huge_page_size",
    "huge_pages",
    "ident_file",
    "ignore_invalid_pages",
    "jit_provider",
    "listen_addresses",
    "logging_collector",
    "max_connections",
    "max_files_per_process",
    "max_locks_per_transaction",
    "max_logical_replication_workers",
    "max_notify_queue_pages",
    "max_pred_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "min_dynamic_shared_memory",
    "multixact_member_buffers",
    "multixact_offset_buffers",
    "notify_buffers",
    "pg_prewarm.autoprewarm",
    "pg_stat_statements.max",
    "port",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "reserved_connections",
    "serializable_buffers",
    "shared_buffers",
    "shared_memory_type",
    "shared_preload_libraries",
    "subtransaction_buffers",
    "superuser_reserved_connections",
    "trace_connection_negotiation",
    "track_activity_query_size",
    "track_commit_timestamp",
    "transaction_buffers",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
    "wal_buffers",
    "wal_decode_buffer_size",
    "wal_level",
    "wal_log_hints",
];

/// Room for two backends with a pool each and for people; every one costs memory even when idle.
pub(super) const MAX_CONNECTIONS: u64 = 100;

/// A line of postgresql.conf, its value ready to stand between single quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
}

/// The manifest's settings by the file they belong to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) at_start: Vec<Setting>,
    pub(super) reloadable: Vec<Setting>,
}

pub(super) fn split(settings: &BTreeMap<String, String>) -> Split {
    let (at_start, reloadable) = settings
        .iter()
        .map(|(name, value)| Setting { name: name.clone(), value: escape(value) })
        .partition(|setting| AT_START_ONLY.contains(&setting.name.as_str()));
    Split { at_start, reloadable }
}

/// As guc-file.l reads a quoted value: quotes doubled, backslashes begin an escape, a line ends the value.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n")
}

/// Sizes in MiB for a member that may use so much memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total_mb: u64,
    pub(super) shared_buffers_mb: u64,
    pub(super) effective_cache_size_mb: u64,
    pub(super) maintenance_work_mem_mb: u64,
    pub(super) work_mem_mb: u64,
}

impl Memory {
    pub(super) fn of(bytes: u64) -> Self {
        let total_mb = bytes / MIB;
        Self {
            total_mb,
            // The docs' starting point is a quarter (PostgreSQL 17 docs, 19.4.1).
            shared_buffers_mb: (total_mb / 4).clamp(8, 16 * 1024),
            effective_cache_size_mb: (total_mb / 2).max(16),
            // Each of three autovacuum workers may take it.
            maintenance_work_mem_mb: (total_mb / 16).clamp(8, 1024),
            // Half of what is left, if a quarter of the connections sort at once.
            work_mem_mb: (total_mb * 3 / 8 / (MAX_CONNECTIONS / 4)).clamp(1, 64),
        }
    }

    /// Parallel queries exchange rows through `/dev/shm`, which engines make 64 MiB small.
    pub(super) fn shm_bytes(&self) -> u64 {
        (self.total_mb / 4).max(64) * MIB
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_to_the_file_that_can_hold_them() {
        let settings = [("shared_buffers", "1GB"), ("work_mem", "8MB"), ("pg_stat_statements.track", "all")];
        let split = split(&settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let names = |settings: &[Setting]| settings.iter().map(|setting| setting.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&split.at_start), ["shared_buffers"]);
        assert_eq!(names(&split.reloadable), ["pg_stat_statements.track", "work_mem"]);
    }

    #[test]
    fn a_value_cannot_end_its_line() {
        assert_eq!(escape("a'b\\c\nfsync=off"), "a''b\\\\c\\nfsync=off");
    }

    #[test]
    fn sizes_stay_usable_at_both_ends() {
        let small = Memory::of(8 * MIB);
        assert_eq!((small.shared_buffers_mb, small.work_mem_mb), (8, 1));
        let large = Memory::of(256 << 30);
        assert_eq!((large.shared_buffers_mb, large.work_mem_mb), (16_384, 64));
    }

    #[test]
    fn the_table_is_sorted_and_names_nothing_twice() {
        assert!(AT_START_ONLY.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
