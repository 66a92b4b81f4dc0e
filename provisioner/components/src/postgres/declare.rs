//! What should exist: one workload and one volume a member, all alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::{Value, context};
use provisioner_core::manifest::{Manifest, PostgresMember, Synchronous};
use provisioner_core::name::Member;
use provisioner_core::stack::{
    Expose, File, ImageId, Limits, Mount, OnChange, Port, Probe, Probes, Recipe, Resource, Restart, Stop, Text, Volume,
    Workload,
};

use super::login::{self, Login};
use super::settings::{self, Memory, Setting};
use super::{NAME, PORT};
use super::{encryption, external};
use crate::template::render;
use crate::{DRILL, monitoring, route};

/// Above the data, so that data gets its name in one rename.
pub(super) const DATA_ROOT: &str = "/var/lib/postgresql";
pub(super) const CONFIG: &str = "/etc/postgresql";
/// As the script `member` has it.
const SOCKETS: &str = "/run/postgresql";
pub(super) const SCRIPTS: &str = "/usr/local/lib/provisioner/postgres";
/// User and group of the recipe and of Docker's library image.
pub(super) const POSTGRES: (u32, u32) = (999, 999);
/// What a fast shutdown may take: it ends with a checkpoint.
pub(super) const STOP_GRACE_SECS: u32 = 60;

pub(super) fn declare(manifest: &Manifest) -> Vec<Resource> {
    let postgres = &manifest.postgres;
    if let (Some(found), Some(external)) = (&postgres.external, external::of(manifest)) {
        return external.secrets(&found.server);
    }
    let own = || Recipe {
        id: ImageId(NAME.to_owned()),
        base: ImageId(crate::BASE.to_owned()),
        dockerfile: include_str!("../../recipes/postgres/Dockerfile").to_owned(),
        inputs: Vec::new(),
    };
    let mut resources = crate::recipe(NAME, postgres.service.image.as_deref(), own);
    resources.extend(login::secrets());
    resources.extend(encryption::resources(manifest));
    for member in members(manifest) {
        resources.push(Resource::Volume(Volume {
            name: volume(&member),
            component: NAME.to_owned(),
            size_bytes: postgres.service.disk_bytes,
        }));
        resources.push(Resource::Workload(Arc::new(workload(manifest, &member))));
    }
    resources
}

/// The primary and its replicas, whichever is which.
pub(crate) fn members(manifest: &Manifest) -> Vec<Member> {
    (1..=manifest.postgres.replicas + 1).map(|ordinal| Member::nth(NAME, ordinal)).collect()
}

pub(super) fn volume(member: &Member) -> String {
    format!("{member}-data")
}

pub(super) fn mount(member: &Member) -> Mount {
    Mount { volume: volume(member), path: DATA_ROOT.to_owned() }
}

fn workload(manifest: &Manifest, member: &Member) -> Workload {
    let service = &manifest.postgres.service;
    let memory = Memory::of(service.memory_bytes);
    let mut files = configuration(manifest, member, &memory);
    files.push(script("common.sh"));
    files.push(script("member"));
    Workload {
        member: member.clone(),
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: command("member"),
        env: if manifest.postgres.tls { encryption::client_env().into() } else { BTreeMap::new() },
        // What a replica's receiver logs in with. In the environment, so that it is not written into the data and
        // from there into every copy and backup of it.
        secret_env: password(Login::Replicator, "PGPASSWORD"),
        files,
        mounts: vec![mount(member)],
        names: Vec::new(),
        // Replicas and jobs reach the primary itself; everybody else goes by the route.
        ports: vec![Port::new("postgres", PORT, Expose::Checks).reached_by(&[
            NAME,
            route::NAME,
            monitoring::NAME,
            DRILL,
        ])],
        user: Some(POSTGRES),
        scratch: scratch(),
        limits: Limits {
            memory_bytes: Some(service.memory_bytes),
            cpu_millis: Some(service.cpu_millis),
            shm_bytes: Some(memory.shm_bytes()),
        },
        stop: Stop { signal: "SIGINT".to_owned(), grace_secs: STOP_GRACE_SECS },
        restart: Restart::Never,
        probes: Some(Probes::ready(accepts())),
        after: Vec::new(),
    }
}

/// By the socket, which needs no certificate; it logs nothing and logs in as nobody.
fn accepts() -> Probe {
    let argv = ["pg_isready", "-q", "-h", SOCKETS, "-p", &PORT.to_string()].map(str::to_owned);
    Probe::Command { argv: argv.into() }
}

/// For sockets, and for what the scripts write down on their way.
pub(super) fn scratch() -> Vec<String> {
    [SOCKETS, "/tmp"].map(str::to_owned).to_vec()
}

pub(super) fn password(login: Login, variable: &str) -> BTreeMap<String, Text> {
    BTreeMap::from([(variable.to_owned(), Text::new(Text::secret(login.secret())))])
}

pub(super) fn command(script: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), format!("{SCRIPTS}/{script}")]
}

/// A script, put in rather than built in, so that it works in somebody's own image too.
pub(super) fn script(name: &'static str) -> File {
    let content = match name {
        "common.sh" => include_str!("../../recipes/postgres/common.sh"),
        "bootstrap" => include_str!("../../recipes/postgres/bootstrap"),
        "clone" => include_str!("../../recipes/postgres/clone"),
        "rejoin" => include_str!("../../recipes/postgres/rejoin"),
        _ => include_str!("../../recipes/postgres/member"),
    };
    // Read at the next start; a running server has no use for it.
    file(format!("{SCRIPTS}/{name}"), content.to_owned(), OnChange::Nothing)
}

fn configuration(manifest: &Manifest, member: &Member, memory: &Memory) -> Vec<File> {
    let postgres = &manifest.postgres;
    let split = settings::split(&postgres.settings);
    let startup = render(
        "postgresql.startup.conf.j2",
        include_str!("../../recipes/postgres/postgresql.startup.conf.j2"),
        context! {
            member => member.as_str(),
            max_connections => settings::MAX_CONNECTIONS,
            shared_buffers_mb => memory.shared_buffers_mb,
            settings => lines(&split.at_start),
        },
    );
    let reloadable = render(
        "postgresql.conf.j2",
        include_str!("../../recipes/postgres/postgresql.conf.j2"),
        context! {
            synchronous => policy_word(postgres.synchronous),
            member => postgres.members.get(member).map(election),
            tls => postgres.tls,
            memory_mb => memory.total_mb,
            effective_cache_size_mb => memory.effective_cache_size_mb,
            maintenance_work_mem_mb => memory.maintenance_work_mem_mb,
            work_mem_mb => memory.work_mem_mb,
            settings => lines(&split.reloadable),
        },
    );
    let reload = || {
        let mut check = command("member");
        check.push("check".to_owned());
        OnChange::Reload { check, signal: "SIGHUP".to_owned() }
    };
    let access = render(
        "pg_hba.conf.j2",
        include_str!("../../recipes/postgres/pg_hba.conf.j2"),
        context! { tls => postgres.tls },
    );
    let mut files = vec![
        file(format!("{CONFIG}/postgresql.startup.conf"), startup, OnChange::Restart),
        file(settings_path(), reloadable, reload()),
        file(format!("{CONFIG}/pg_hba.conf"), access, reload()),
    ];
    if postgres.tls {
        files.extend(encryption::files(reload));
    }
    files
}

fn election(PostgresMember { region, priority, nofailover }: &PostgresMember) -> Value {
    context! { region => region, priority => priority, nofailover => nofailover.to_string() }
}

fn lines(settings: &[Setting]) -> Vec<Value> {
    settings.iter().map(|Setting { name, value }| context! { name => name.as_str(), value => value.as_str() }).collect()
}

/// Holds no secret and belongs to root, so its reader need not be known by number.
fn file(path: String, content: String, on_change: OnChange) -> File {
    File { path, mode: 0o644, owner: (0, 0), content: Text::new(content), on_change }
}

/// How `member` follows `primary`. The password is not written down, nor whether to encrypt: the server has both in its
/// environment. Without tcp_user_timeout a replica stayed away for 40 to 74 s after its primary was restarted elsewhere.
pub(super) fn conninfo(primary: &Member, member: &Member) -> String {
    format!(
        "host={primary} port={PORT} user={} application_name={member} connect_timeout=2 tcp_user_timeout=2000",
        Login::Replicator.role()
    )
}

pub(super) fn settings_path() -> String {
    format!("{CONFIG}/postgresql.conf")
}

pub(super) fn policy_word(policy: Synchronous) -> &'static str {
    match policy {
        Synchronous::Off => "off",
        Synchronous::Preferred => "preferred",
        Synchronous::Required => "required",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::manifest;

    fn text(files: &[File], name: &str) -> String {
        files.iter().find(|file| file.path.ends_with(name)).unwrap().content.masked().to_owned()
    }

    #[test]
    fn the_configuration_of_a_member() {
        let mut manifest = manifest();
        manifest.postgres.service.memory_bytes = 384 << 20;
        manifest.postgres.settings = [("random_page_cost", "1.1"), ("max_locks_per_transaction", "128")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let files = workload(&manifest, &Member::nth(NAME, 2)).files;
        insta::assert_snapshot!("postgresql.conf", text(&files, "/postgresql.conf"));
        insta::assert_snapshot!("postgresql.startup.conf", text(&files, "/postgresql.startup.conf"));
        insta::assert_snapshot!("pg_hba.conf", text(&files, "/pg_hba.conf"));
    }

    #[test]
    fn encrypted_nothing_but_the_routes_check_comes_in_clear() {
        let mut manifest = manifest();
        manifest.postgres.tls = true;
        let workload = workload(&manifest, &Member::nth(NAME, 1));
        let access = text(&workload.files, "/pg_hba.conf");
        insta::assert_snapshot!("pg_hba.conf.tls", access);
        let in_clear: Vec<&str> = access.lines().filter(|line| line.starts_with("host ")).collect();
        assert_eq!(in_clear.len(), 1, "{in_clear:?}");
        let settings = text(&workload.files, "/postgresql.conf");
        assert!(settings.contains("\nssl = on\nssl_cert_file = '/etc/postgresql/tls/server.crt'\n"), "{settings}");
        assert_eq!(workload.env["PGSSLMODE"], "verify-full");
        let key = workload.files.iter().find(|file| file.path.ends_with("/server.key")).unwrap();
        assert_eq!((key.mode, key.owner, key.content.masked()), (0o400, (999, 999), "@{secret:tls-postgres.key}"));
    }

    /// `up` after a failover is an empty plan only if no file of a member depends on who is primary.
    #[test]
    fn members_differ_by_their_names_alone() {
        let manifest = manifest();
        let text = |ordinal: u32| {
            let member = Member::nth(NAME, ordinal);
            let workload = workload(&manifest, &member);
            serde_json::to_string(&workload).unwrap().replace(member.as_str(), "MEMBER")
        };
        assert_eq!(text(1), text(2));
    }

    #[test]
    fn no_file_holds_a_role() {
        let files = workload(&manifest(), &Member::nth(NAME, 1)).files;
        for file in files.iter().filter(|file| file.path.starts_with(CONFIG)) {
            for setting in ["primary_conninfo", "primary_slot_name", "synchronous_standby_names"] {
                assert!(!file.content.masked().contains(setting), "{setting} in {}", file.path);
            }
        }
    }
}
