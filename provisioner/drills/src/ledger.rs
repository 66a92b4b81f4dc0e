//! The ledger as a member of the stack: a client beside the application that notes down what it was promised.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use provisioner_components::postgres::{self, Cluster, Login};
use provisioner_components::{AUTHORITY_FILE, BASE, DRILL, authority_file, base, route};
use provisioner_core::component::Access;
use provisioner_core::engine::{ImageReferences, LogOptions, collect_text};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::stack::{
    Fingerprint, Image, ImageId, ImageInput, Limits, Recipe, Resource, ResourceId, Restart, Stack, Stop, Text, Workload,
};
use provisioner_core::wait::{self, Look};

use crate::journal::Journal;
use crate::judge::{Held, Stage};

/// `up` removes what a killed drill left.
pub const COMPONENT: &str = DRILL;
const IMAGE: &str = "probe";
const JOURNALS: &str = "/var/lib/ledger";
const JOURNAL: &str = "/var/lib/ledger/journal";
/// User and group of the recipe.
const USER: (u32, u32) = (10001, 10001);
const MEMORY_BYTES: u64 = 128 << 20;
/// It ends within 2 s.
const GRACE_SECS: u32 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(50);
const END_LIMIT: Duration = Duration::from_secs(10);

/// The program that goes into the probe image: a static Linux binary of the operator's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    file: PathBuf,
    digest: Fingerprint,
}

impl Probe {
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let digest = File::open(file).and_then(Fingerprint::of_reader).map_err(|error| {
            Failure::because(format!("read the probe {}", file.display()), error).hint("make build")
        })?;
        Ok(Self { file: file.to_owned(), digest })
    }

    pub fn image(&self) -> Image {
        Image::Recipe(Recipe {
            id: ImageId(IMAGE.to_owned()),
            base: ImageId(BASE.to_owned()),
            dockerfile: include_str!("../recipes/probe/Dockerfile").to_owned(),
            inputs: vec![ImageInput::HostFile {
                path: IMAGE.to_owned(),
                mode: 0o755,
                file: self.file.clone(),
                digest: self.digest.clone(),
            }],
        })
    }

    /// The image with the base that it starts from.
    pub fn images(&self) -> [Resource; 2] {
        [base(), Resource::Image(self.image())]
    }
}

/// How much the ledger writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub writers: u16,
    /// Between two rows of one writer.
    pub every: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self { writers: 4, every: Duration::from_millis(5) }
    }
}

/// What the ledger counts so far; only what is durable in its journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub acked: u64,
    pub refused: u64,
    pub unknown: u64,
}

pub fn member() -> Member {
    Member::nth("ledger", 1)
}

/// Makes the image and a new ledger, whose journal begins empty.
pub async fn start(access: &Access<'_>, probe: &Probe, load: Load) -> Result<(), Failure> {
    let mut images = ImageReferences::new();
    for resource in probe.images() {
        access.engine.ensure(&resource, &images, access.output).await?;
        if let Resource::Image(image) = resource {
            images.insert(image.id().clone(), image.reference());
        }
    }
    remove(access).await?;
    let cluster = Cluster::current(access).await?;
    postgres::ledger::clear(access, &cluster.primary).await?;
    let workload = Resource::Workload(Arc::new(workload(access.stack, load)));
    Ok(access.engine.ensure(&workload, &images, access.output).await?)
}

fn workload(stack: &Stack, load: Load) -> Workload {
    let members: Vec<&str> = stack.members(postgres::NAME).map(|workload| workload.member.as_str()).collect();
    let mut env = BTreeMap::from([
        ("LEDGER_ROUTE".to_owned(), format!("{}:{}", route::READ_WRITE, route::READ_WRITE_PORT)),
        ("LEDGER_MEMBERS".to_owned(), members.join(" ")),
        ("LEDGER_WRITERS".to_owned(), load.writers.to_string()),
        ("LEDGER_EVERY_MS".to_owned(), load.every.as_millis().to_string()),
        ("LEDGER_DATABASE".to_owned(), postgres::HOME.to_owned()),
        ("LEDGER_USER".to_owned(), Login::Ledger.role().to_owned()),
        ("LEDGER_JOURNAL".to_owned(), JOURNAL.to_owned()),
    ]);
    let mut files = Vec::new();
    if postgres::is_encrypted(stack) {
        env.insert("LEDGER_CA".to_owned(), AUTHORITY_FILE.to_owned());
        files.push(authority_file());
    }
    Workload {
        member: member(),
        component: COMPONENT.to_owned(),
        image: ImageId(IMAGE.to_owned()),
        command: ["probe", "ledger"].map(str::to_owned).to_vec(),
        env,
        secret_env: BTreeMap::from([("PGPASSWORD".to_owned(), Text::new(Text::secret(Login::Ledger.secret())))]),
        files,
        mounts: Vec::new(),
        names: Vec::new(),
        ports: Vec::new(),
        user: Some(USER),
        scratch: vec![JOURNALS.to_owned()],
        limits: Limits { memory_bytes: Some(MEMORY_BYTES), cpu_millis: None, shm_bytes: None },
        stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: GRACE_SECS },
        // A second run would have another clock.
        restart: Restart::Never,
        probes: None,
        after: Vec::new(),
    }
}

/// Waits until so many rows were acknowledged.
pub async fn steady(access: &Access<'_>, acked: u64, limit: Duration) -> Result<Progress, Failure> {
    let waited = wait::until(limit, LOOK_EVERY, async || match progress(access).await {
        Ok(Some(progress)) if progress.acked >= acked => Look::Done(progress),
        Ok(Some(progress)) => Look::Pending(format!("{} rows are acknowledged, expected {acked}", progress.acked)),
        Ok(None) => Look::Pending("it has told nothing yet".to_owned()),
        Err(failure) => Look::Broken(failure.chain()),
    });
    waited
        .await
        .map_err(|error| Failure::because("wait for the ledger", error).hint(format!("provisioner logs {}", member())))
}

/// What it told last; it does so every second.
pub async fn progress(access: &Access<'_>) -> Result<Option<Progress>, Failure> {
    let options = LogOptions { tail: Some(1), ..LogOptions::default() };
    let last = collect_text(access.engine.logs(&member(), options).await?).await?;
    let last = last.trim();
    match told(last) {
        Some(progress) => Ok(Some(progress)),
        None if last.is_empty() => Ok(None),
        None => Err(Failure::new(format!("{}: {last}", member()))),
    }
}

fn told(line: &str) -> Option<Progress> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["acked", acked, "refused", refused, "unknown", unknown] = words[..] else { return None };
    Some(Progress { acked: acked.parse().ok()?, refused: refused.parse().ok()?, unknown: unknown.parse().ok()? })
}

/// Ends the journal; the member stays, so that it can be read.
pub async fn stop(access: &Access<'_>) -> Result<(), Failure> {
    let argv = ["kill", "-USR1", "1"].map(str::to_owned);
    let told = access.engine.exec(&member(), &shell(&argv.join(" ")), None).await?.finish().await?;
    if told.exit_code != 0 {
        let failure = Failure::new(format!("end the ledger: exit code {}, expected 0", told.exit_code));
        return Err(failure.output(told.stderr));
    }
    let waited = wait::until(END_LIMIT, LOOK_EVERY, async || {
        let last = async {
            let last = format!("tail -n 1 {JOURNAL}");
            access.engine.exec(&member(), &shell(&last), None).await?.finish().await
        };
        match last.await {
            Ok(last) if last.stdout.starts_with("end ") => Look::Done(()),
            Ok(last) => Look::Pending(format!("its last line is {:?}", last.stdout.trim())),
            Err(error) => Look::Broken(error),
        }
    });
    waited.await.map_err(|error| Failure::because("wait for the end of the ledger's journal", error))
}

fn shell(line: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()]
}

/// The journal as it stands; complete after [`stop`].
pub async fn collect(access: &Access<'_>) -> Result<Journal, Failure> {
    let argv = ["cat", JOURNAL].map(str::to_owned);
    let read = access.engine.exec(&member(), &argv, None).await?.finish().await?;
    if read.exit_code != 0 {
        let failure = Failure::new(format!("read the ledger's journal: exit code {}, expected 0", read.exit_code));
        return Err(failure.output(read.stderr));
    }
    Journal::parse(&read.stdout).map_err(|error| Failure::because("collect the ledger", error))
}

pub async fn remove(access: &Access<'_>) -> Result<(), Failure> {
    Ok(access.engine.remove(&ResourceId::Workload(member())).await?)
}

/// The run's rows as a member holds them, for the judge.
pub async fn held(access: &Access<'_>, member: &Member, stage: Stage, run: u64) -> Result<Held, Failure> {
    let (rows, answers) = postgres::ledger::rows(access, member, run).await?;
    Ok(Held { member: member.clone(), stage, rows: rows.into(), answers: answers.into() })
}

#[cfg(test)]
mod tests {
    use provisioner_components::postgres::Postgres;
    use provisioner_core::component::Component;
    use provisioner_core::manifest::parse;

    use super::*;

    fn of(postgres: &str) -> Workload {
        let text = format!("name: dev\napp:\n  binary: target/app\npostgres: {{ replicas: 1, {postgres} }}\n");
        let manifest = parse(text.as_bytes()).unwrap();
        workload(&Stack::new(manifest.name.clone(), Postgres.declare(&manifest)), Load::default())
    }

    #[test]
    fn it_knows_every_member_and_its_password_is_seen_nowhere() {
        let ledger = of("tls: false");
        assert_eq!(ledger.env["LEDGER_MEMBERS"], "postgres-1 postgres-2");
        assert_eq!(ledger.env["LEDGER_ROUTE"], "postgres-rw:5432");
        assert_eq!(ledger.secret_env["PGPASSWORD"].masked(), "@{secret:postgres-ledger}");
        assert!(ledger.files.is_empty() && !ledger.env.contains_key("LEDGER_CA"));
    }

    #[test]
    fn it_trusts_the_stacks_authority_where_sessions_are_encrypted() {
        let ledger = of("tls: true");
        assert_eq!(ledger.env["LEDGER_CA"], "/run/provisioner/ca.crt");
        assert_eq!(ledger.files[0].path, "/run/provisioner/ca.crt");
    }

    #[test]
    fn what_it_tells_is_understood() {
        let progress = Progress { acked: 12, refused: 3, unknown: 1 };
        assert_eq!(told("acked 12 refused 3 unknown 1"), Some(progress));
        assert_eq!(told("probe: trust /run/provisioner/ca.crt"), None);
    }

    #[test]
    fn another_program_is_another_image() {
        let folder = std::env::temp_dir();
        let references: Vec<String> = ["one", "other"]
            .into_iter()
            .map(|content| {
                let file = folder.join(format!("probe-{}-{content}", std::process::id()));
                std::fs::write(&file, content).unwrap();
                let [_, Resource::Image(image)] = Probe::read(&file).unwrap().images() else {
                    panic!("expected an image")
                };
                std::fs::remove_file(&file).unwrap();
                image.reference()
            })
            .collect();
        assert_ne!(references[0], references[1]);
    }
}
