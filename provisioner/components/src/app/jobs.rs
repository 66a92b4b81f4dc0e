//! Migration before the backends of a release start, seed once.

use std::collections::BTreeMap;

use provisioner_core::component::{Access, Dependency, Planned, Situation, Task};
use provisioner_core::failure::Failure;
use provisioner_core::record;
use provisioner_core::stack::{File, Fingerprint, ImageId, Job, ResourceId, Stack, Text, Workload};
use serde::{Deserialize, Serialize};

use super::{Contract, NAME};
use crate::certificates::AUTHORITY_FILE;
use crate::postgres::{self, Login};
use crate::route;

pub(super) const MIGRATE: &str = "migrate";
const SEED: &str = "seed";
/// Whose migration ran last.
const MIGRATED: &str = "app.migrated";
/// Whose seed ran; it runs once in the life of the data.
const SEEDED: &str = "app.seeded";
const RELEASE: &str = "release";
pub(super) const DATABASE_URL: &str = "DATABASE_URL";
/// A migration may rewrite a table.
const LIMIT_SECS: u64 = 1800;

/// Stands for an image and the command that was run in it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    release: String,
}

pub(super) fn tasks(situation: &Situation<'_>) -> Vec<Planned> {
    let Situation { stack, observed, .. } = situation;
    let Ok(contract) = Contract::read(stack) else { return Vec::new() };
    // A record that does not read is one of another version of this program: what it stands for was done.
    let done = |key: &str| match observed.records.read::<Done>(key) {
        Ok(done) => done,
        Err(_) => Some(Done { release: "unknown".to_owned() }),
    };
    let task = |name: &str, command: &Option<Vec<String>>| {
        let release = command.as_ref().map(|command| release(stack, command));
        (Task::new(NAME, name).with(RELEASE, release.clone().unwrap_or_default()), release)
    };

    let (migrate, wanted) = task(MIGRATE, &contract.migrate);
    let migrate = Planned {
        because: wanted.and_then(|wanted| match done(MIGRATED) {
            Some(Done { release }) if release == wanted => None,
            Some(Done { release }) => Some(format!("the last migration was of release {release}")),
            None => Some("the database was never migrated".to_owned()),
        }),
        task: migrate,
        after: needs(stack),
        before: stack.members(NAME).map(|program| Dependency::workload(&program.member)).collect(),
    };
    let (seed, wanted) = task(SEED, &contract.seed);
    let seed = Planned {
        because: wanted.filter(|_| done(SEEDED).is_none()).map(|_| "the database was never seeded".to_owned()),
        task: seed,
        after: vec![Dependency::task(NAME, MIGRATE)],
        before: Vec::new(),
    };
    vec![migrate, seed]
}

fn release(stack: &Stack, command: &[String]) -> String {
    let image = stack.image(&ImageId(NAME.to_owned())).map(|image| image.reference());
    Fingerprint::of(&(image, command)).to_string()
}

/// What a job needs that is no member's own dependency: jobs are no resources.
fn needs(stack: &Stack) -> Vec<Dependency> {
    let resource = Dependency::Resource;
    let mut needs = vec![resource(ResourceId::Network), resource(ResourceId::Image(ImageId(NAME.to_owned())))];
    if stack.external(postgres::NAME).is_none() {
        needs.extend([
            resource(ResourceId::Secret(Login::Owner.secret().to_owned())),
            Dependency::task(postgres::NAME, "roles"),
            Dependency::task(route::NAME, route::POINT),
        ]);
    } else {
        // Nothing else is waited for that would be made after all of them.
        let told = super::backends(stack).take(1).flat_map(|backend| backend.secret_env.values());
        let names = told.flat_map(Text::secrets).map(|secret| resource(ResourceId::Secret(secret.to_owned())));
        needs.extend(names);
    }
    let trusted = super::backends(stack).take(1).flat_map(trusted).flat_map(|file| file.content.secrets());
    needs.extend(trusted.map(|secret| resource(ResourceId::Secret(secret.to_owned()))));
    needs.extend(stack.members(route::NAME).map(|route| Dependency::Ready(route.member.clone())));
    needs
}

pub(super) async fn run(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    let fail = |what: String| Failure::new(format!("run {task}: {what}"));
    let contract = Contract::read(access.stack).map_err(fail)?;
    let (command, record) = match task.name.as_str() {
        MIGRATE => (contract.migrate, MIGRATED),
        SEED => (contract.seed, SEEDED),
        other => return Err(fail(format!("component app has no task {other}"))),
    };
    let command = command.ok_or_else(|| fail(format!("the manifest has no app.{} command", task.name)))?;
    let job = job(access.stack, &task.name, command).map_err(fail)?;
    let outcome = access.engine.run(&job, access.images, access.output).await?;
    if outcome.exit_code != 0 {
        let failure =
            fail(format!("`{}` ended with exit code {}, expected 0", job.command.join(" "), outcome.exit_code));
        return Err(failure.output(outcome.tail));
    }
    let release = task.with.get(RELEASE).cloned().unwrap_or_default();
    record::update(access.engine.records(), record, |_: Option<Done>| Some(Done { release: release.clone() })).await?;
    Ok(())
}

/// What a process reads in order to know whom to believe.
fn trusted(backend: &Workload) -> impl Iterator<Item = &File> {
    backend.files.iter().filter(|file| file.path == AUTHORITY_FILE)
}

/// The backends' image and surroundings, but as the owner of the database.
fn job(stack: &Stack, name: &str, command: Vec<String>) -> Result<Job, String> {
    let backend: &Workload = super::backends(stack).next().ok_or("the stack has no backend")?;
    let mut secret_env: BTreeMap<String, Text> = backend.secret_env.clone();
    // Absent, or given, where the manifest names a database of its own.
    if let Some(url) = secret_env.get_mut(DATABASE_URL).filter(|url| !super::is_given(url)) {
        *url = postgres::owner_url(stack);
    }
    Ok(Job {
        name: name.to_owned(),
        component: NAME.to_owned(),
        image: backend.image.clone(),
        command,
        env: backend.env.clone(),
        secret_env,
        files: trusted(backend).cloned().collect(),
        mounts: Vec::new(),
        user: backend.user,
        scratch: backend.scratch.clone(),
        limits: backend.limits.clone(),
        timeout_secs: LIMIT_SECS,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use provisioner_core::component::Component;
    use provisioner_core::manifest::HostFiles;
    use provisioner_core::observed::Observed;
    use provisioner_core::record::Record;
    use provisioner_core::stack::Fingerprint;
    use serde_json::json;

    use super::*;
    use crate::app::App;
    use crate::testing::manifest;

    fn planned(stack: &Stack, observed: &Observed) -> Vec<(String, Option<String>)> {
        let changing = BTreeSet::new();
        let tasks = tasks(&Situation { stack, observed, changing: &changing });
        tasks.into_iter().map(|planned| (planned.task.name, planned.because)).collect()
    }

    fn stack() -> Stack {
        Stack::new(manifest().name, App.declare(&manifest()))
    }

    fn note(observed: &mut Observed, key: &str, release: &str) {
        observed.records.0.insert(key.to_owned(), Record { version: 1, value: json!({ "release": release }) });
    }

    #[test]
    fn a_new_release_is_migrated_and_never_seeded_again() {
        let stack = stack();
        let mut observed = Observed::default();
        let never = |what: &str| Some(format!("the database was never {what}"));
        let expected = [("migrate".to_owned(), never("migrated")), ("seed".to_owned(), never("seeded"))];
        assert_eq!(planned(&stack, &observed), expected);

        note(&mut observed, MIGRATED, "an-older-one");
        note(&mut observed, SEEDED, "an-older-one");
        let because = Some("the last migration was of release an-older-one".to_owned());
        assert_eq!(planned(&stack, &observed), [("migrate".to_owned(), because), ("seed".to_owned(), None)]);

        note(&mut observed, MIGRATED, &release(&stack, &Contract::read(&stack).unwrap().migrate.unwrap()));
        assert_eq!(planned(&stack, &observed), [("migrate".to_owned(), None), ("seed".to_owned(), None)]);
    }

    #[test]
    fn an_app_without_commands_has_nothing_to_run() {
        let mut manifest = manifest();
        (manifest.app.migrate, manifest.app.seed) = (None, None);
        let stack = Stack::new(manifest.name.clone(), App.declare(&manifest));
        let planned = planned(&stack, &Observed::default());
        assert_eq!(planned, [("migrate".to_owned(), None), ("seed".to_owned(), None)]);
    }

    #[test]
    fn jobs_work_as_the_owner() {
        let job = job(&stack(), "migrate", vec!["app".to_owned(), "migrate".to_owned()]).unwrap();
        let url = &job.secret_env[DATABASE_URL];
        assert_eq!(url.masked(), "postgres://app_owner:@{secret:postgres-owner}@postgres-rw:5432/app");
        assert!(job.files.is_empty());
    }

    #[test]
    fn a_job_keeps_the_database_that_a_file_names() {
        let mut manifest = manifest();
        let file = HostFiles { files: vec!["url".into()], digest: Fingerprint::of_bytes(b"url") };
        manifest.app.secret_env.insert(DATABASE_URL.to_owned(), file);
        let stack = Stack::new(manifest.name.clone(), App.declare(&manifest));
        let job = job(&stack, "migrate", vec!["app".to_owned()]).unwrap();
        assert_eq!(job.secret_env[DATABASE_URL].masked(), "@{secret:app-env-database-url}");
    }

    #[test]
    fn jobs_know_whom_to_believe() {
        let mut manifest = manifest();
        manifest.postgres.tls = true;
        let resources = App.declare(&manifest).into_iter().chain(postgres::Postgres.declare(&manifest));
        let stack = Stack::new(manifest.name, resources);
        let job = job(&stack, "migrate", vec!["app".to_owned(), "migrate".to_owned()]).unwrap();
        let expected = "@postgres-rw:5432/app?sslmode=verify-full&sslrootcert=/run/provisioner/ca.crt";
        assert!(job.secret_env[DATABASE_URL].masked().ends_with(expected));
        assert_eq!(job.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), [AUTHORITY_FILE]);
        assert!(needs(&stack).contains(&Dependency::Resource(ResourceId::Secret("ca".to_owned()))));
    }
}
