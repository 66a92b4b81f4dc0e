//! Programs that really run.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::Notify;

use super::{Ground, Outcome, ensured, file, images, observed, secret, volume, with_volume, workload};
use crate::clock;
use crate::engine::{Engine, EngineError, Executed, LogOptions, Output, OutputChunk, Power, Quiet, collect_text};
use crate::fault::Fault;
use crate::name::Member;
use crate::stack::{Job, Limits, Mount, OnChange, Resource, ResourceId, Text};
use crate::wait::{self, Look};

pub(super) type Failed = Box<dyn Error + Send + Sync>;

pub(super) async fn shell(engine: &dyn Engine, member: &Member, script: &str) -> Result<Executed, EngineError> {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned);
    engine.exec(member, &argv, None).await?.finish().await
}

pub(super) async fn log_text(
    engine: &dyn Engine,
    member: &Member,
    tail: Option<u32>,
) -> Result<(String, String), EngineError> {
    let mut logs = engine.logs(member, LogOptions { tail, ..LogOptions::default() }).await?;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    while let Some(chunk) = logs.try_next().await? {
        match chunk {
            OutputChunk::Stdout(bytes) => stdout.push_str(&String::from_utf8_lossy(&bytes)),
            OutputChunk::Stderr(bytes) => stderr.push_str(&String::from_utf8_lossy(&bytes)),
        }
    }
    Ok((stdout, stderr))
}

/// Waits until the member's standard output holds `expected`.
pub(super) async fn printed(engine: &dyn Engine, member: &Member, expected: &str) -> Result<(), Failed> {
    let looked = wait::until(Duration::from_secs(10), Duration::from_millis(50), async || {
        match log_text(engine, member, None).await {
            Ok((stdout, _)) if stdout.contains(expected) => Look::Done(()),
            Ok((stdout, _)) => Look::Pending(format!("the log holds {stdout:?}, expected {expected:?}")),
            Err(error) => Look::Broken(error),
        }
    });
    Ok(looked.await?)
}

/// Waits until either of the member's streams holds `expected`.
async fn printed_by_any(engine: &dyn Engine, member: &Member, expected: &str) -> Result<(), Failed> {
    let looked = wait::until(Duration::from_secs(10), Duration::from_millis(50), async || {
        match log_text(engine, member, None).await {
            Ok((stdout, stderr)) if stdout.contains(expected) || stderr.contains(expected) => Look::Done(()),
            Ok(_) => Look::Pending(format!("the log does not hold {expected:?}")),
            Err(error) => Look::Broken(error),
        }
    });
    Ok(looked.await?)
}

fn job(ground: &dyn Ground, script: &str) -> Job {
    Job {
        name: "probe".to_owned(),
        component: "probe".to_owned(),
        image: ground.image().id().clone(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: Vec::new(),
        mounts: Vec::new(),
        user: ground.abilities().user,
        scratch: Vec::new(),
        limits: Limits::default(),
        timeout_secs: 30,
    }
}

pub async fn files_arrive_with_owner_mode_content_and_secrets(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    engine.ensure(&secret("probe"), &images, &Quiet).await?;
    engine.ensure(&volume("data"), &images, &Quiet).await?;
    let mut described = with_volume(workload(ground, "probe-1"), "data");
    let content = format!("password {}\n", Text::secret("probe"));
    described.files = vec![file(&content)];
    let mut inside_a_volume = file("in a volume\n");
    inside_a_volume.path = "/data/deep/er/x.conf".to_owned();
    inside_a_volume.mode = 0o604;
    described.files.push(inside_a_volume);
    ensured(ground, &described).await?;

    let names = ["probe".to_owned()].into();
    let value = engine.secrets(&names).await?.remove("probe").ok_or("no secret was made")?;
    let script = "stat -c '%u:%g %a' /etc/probe.conf /data/deep/er/x.conf; cat /etc/probe.conf /data/deep/er/x.conf";
    let seen = shell(&*engine, &described.member, script).await?;
    assert_eq!(seen.stdout, format!("1000:2000 644\n1000:2000 604\npassword {value}\nin a volume\n"), "{seen:?}");
    Ok(())
}

pub async fn a_reload_delivers_the_file_to_the_running_process(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut described = workload(ground, "probe-1");
    let before = ensured(ground, &described).await?;
    printed(&*engine, &described.member, "started").await?;
    described.files = vec![file("two\n")];
    let check = ["/bin/sh", "-c", "test -s /etc/probe.conf"].map(str::to_owned).into();
    let reload = OnChange::Reload { check, signal: "SIGHUP".to_owned() };
    engine.put_files(&described.member, &described.files, &reload).await?;
    printed(&*engine, &described.member, "two").await?;
    let after = observed(&*engine, &described.member).await?;
    assert_eq!((after.instance, after.files), (before.instance, described.file_fingerprints(&BTreeMap::new())));
    Ok(())
}

pub async fn a_refused_file_is_put_back(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let described = workload(ground, "probe-1");
    let before = ensured(ground, &described).await?;
    let check = ["/bin/sh", "-c", "echo line 1 is wrong >&2; grep -q one /etc/probe.conf"].map(str::to_owned).into();
    let reload = OnChange::Reload { check, signal: "SIGHUP".to_owned() };
    let refused = engine.put_files(&described.member, &[file("two\n")], &reload).await;
    let said = refused.err().ok_or("a refused file was taken over")?.to_string();
    assert!(said.contains("line 1 is wrong"), "{said}");
    let seen = shell(&*engine, &described.member, "stat -c '%u:%g %a' /etc/probe.conf; cat /etc/probe.conf").await?;
    assert_eq!(seen.stdout, "1000:2000 644\none\n");
    assert_eq!(observed(&*engine, &described.member).await?, before);
    Ok(())
}

pub async fn a_new_file_that_is_refused_is_taken_away(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let described = workload(ground, "probe-1");
    ensured(ground, &described).await?;
    let reload = OnChange::Reload { check: vec!["/bin/false".to_owned()], signal: "SIGHUP".to_owned() };
    let mut more = file("more\n");
    more.path = "/etc/more.conf".to_owned();
    let refused = engine.put_files(&described.member, &[more], &reload).await;
    assert!(refused.is_err());
    let seen = shell(&*engine, &described.member, "test ! -e /etc/more.conf").await?;
    assert_eq!(seen.exit_code, 0, "the refused file is still there");
    Ok(())
}

pub async fn exec_passes_both_streams_the_exit_code_and_stdin(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let described = workload(ground, "probe-1");
    ensured(ground, &described).await?;
    let seen = shell(&*engine, &described.member, "echo out; echo err >&2; exit 7").await?;
    assert_eq!(seen, Executed { exit_code: 7, stdout: "out\n".to_owned(), stderr: "err\n".to_owned() });

    let input = "line\n".repeat(100_000);
    let cat = ["cat".to_owned()];
    let echoed = engine.exec(&described.member, &cat, Some(input.clone().into())).await?.finish().await?;
    assert_eq!(echoed.exit_code, 0);
    assert!(echoed.stdout == input, "{} of {} bytes came back", echoed.stdout.len(), input.len());

    let nobody = engine.exec(&Member::named("nobody"), &cat, None).await.err();
    assert!(matches!(nobody, Some(EngineError::NotFound { .. })), "{nobody:?}");
    Ok(())
}

pub async fn logs_show_both_streams_and_can_be_cut_to_the_last_lines(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut described = workload(ground, "probe-1");
    let script = "for n in 1 2 3 4 5; do echo line $n; done; echo warned >&2; exec sleep 60";
    described.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
    described.stop.grace_secs = 0;
    ensured(ground, &described).await?;
    printed(&*engine, &described.member, "line 5").await?;
    printed_by_any(&*engine, &described.member, "warned").await?;
    let (stdout, stderr) = log_text(&*engine, &described.member, None).await?;
    if ground.abilities().tells_streams_apart {
        assert_eq!((stdout.lines().count(), stderr.as_str()), (5, "warned\n"), "{stdout}");
    } else {
        assert_eq!((stdout.lines().count(), stdout.matches("warned\n").count()), (6, 1), "{stdout}");
    }
    let (stdout, stderr) = log_text(&*engine, &described.member, Some(2)).await?;
    assert_eq!(stdout.lines().count() + stderr.lines().count(), 2);
    Ok(())
}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Output for Told {
    fn line(&self, line: &str) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line.to_owned());
    }
}

#[derive(Default)]
struct Begun(Notify);

impl Output for Begun {
    fn line(&self, _: &str) {
        self.0.notify_one();
    }
}

pub async fn a_logs_lines_have_their_times_and_older_ones_can_be_left_out(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut described = workload(ground, "probe-1");
    // Longer than the parts in which engines keep a line.
    let script = "trap 'exit 0' TERM; printf '%040000d\\n' 0; echo done; while :; do sleep 0.1; done";
    described.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
    ensured(ground, &described).await?;
    printed(&*engine, &described.member, "done").await?;
    let options = LogOptions { times: true, ..LogOptions::default() };
    let text = collect_text(engine.logs(&described.member, options).await?).await?;
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(lines.iter().map(|(_, line)| line.len()).collect::<Vec<_>>(), [40_000, 4]);
    assert!(lines.iter().all(|(time, _)| time.starts_with("20") && time.ends_with('Z')), "{:?}", lines[1]);

    let later = LogOptions { since: Some(clock::unix_seconds() + 3600), ..options };
    assert_eq!(collect_text(engine.logs(&described.member, later).await?).await?, "");
    let before = LogOptions { since: Some(clock::unix_seconds() - 3600), ..options };
    assert_eq!(collect_text(engine.logs(&described.member, before).await?).await?, text);
    Ok(())
}

pub async fn a_running_member_tells_what_it_uses(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    engine.ensure(&volume("data"), &images, &Quiet).await?;
    let described = with_volume(workload(ground, "probe-1"), "data");
    ensured(ground, &described).await?;
    shell(&*engine, &described.member, "head -c 1048576 /dev/zero >/data/one").await?;
    let members = [described.member.clone(), Member::named("nobody-1")];
    let used = engine.usage(&members).await;
    assert_eq!(used.keys().collect::<Vec<_>>(), [&described.member]);
    let used = used[&described.member];
    let memory = used.memory_bytes.ok_or("no memory is told")?;
    assert!((1..64 << 20).contains(&memory), "{used:?}");
    assert_eq!(used.memory_limit_bytes, Some(64 << 20));
    assert!(used.cpu_percent.is_some_and(|percent| (0.0..6400.0).contains(&percent)), "{used:?}");
    // An engine with much on its disks does not tell in time.
    assert!(used.disk_bytes.is_none_or(|bytes| (1 << 20..8 << 20).contains(&bytes)), "{used:?}");

    engine.set(&described.member, Power::Stopped).await?;
    let used = engine.usage(&members).await[&described.member];
    assert_eq!((used.memory_bytes, used.cpu_percent), (None, None));
    Ok(())
}

pub async fn a_job_reports_its_exit_code_and_last_lines(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    for resource in [Resource::Network, secret("probe"), volume("data")] {
        engine.ensure(&resource, &images, &Quiet).await?;
    }
    let script = r#"cat /etc/probe.conf; echo "$PLAIN ${#SECRET}"; echo kept > /data/kept; echo bad >&2; exit 3"#;
    let mut described = job(ground, script);
    described.env.insert("PLAIN".to_owned(), "plain".to_owned());
    described.secret_env.insert("SECRET".to_owned(), Text::new(Text::secret("probe")));
    described.files = vec![file("from a file\n")];
    described.mounts.push(Mount { volume: "data".to_owned(), path: "/data".to_owned() });
    let told = Told::default();
    let outcome = engine.run(&described, &images, &told).await?;
    assert_eq!(outcome.exit_code, 3);
    let mut lines: Vec<&str> = outcome.tail.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["bad", "from a file", "plain 24"]);
    assert_eq!(told.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len(), 3);

    let reader = Job { command: vec!["cat".to_owned(), "/data/kept".to_owned()], ..described };
    let second = engine.run(&reader, &images, &Quiet).await?;
    assert_eq!((second.exit_code, second.tail.as_str()), (0, "kept"));
    assert!(engine.observe().await?.workloads.is_empty(), "a job is no member");
    Ok(())
}

pub async fn a_jobs_leftover_does_not_stand_in_its_way(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    engine.ensure(&Resource::Network, &images, &Quiet).await?;
    // Whoever ran this job is gone while it runs, as after `kill -9`.
    let endless = job(ground, "sleep 60");
    let left = tokio::time::timeout(Duration::from_secs(2), engine.run(&endless, &images, &Quiet)).await;
    assert!(left.is_err(), "{left:?}");
    let outcome = engine.run(&job(ground, "echo done"), &images, &Quiet).await?;
    assert_eq!((outcome.exit_code, outcome.tail.as_str()), (0, "done"));
    Ok(())
}

/// As after Ctrl-C: the call is dropped, and the runtime lives on for a moment.
pub async fn a_job_that_nobody_waits_for_lets_go_of_its_volume(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    for resource in [Resource::Network, volume("data")] {
        engine.ensure(&resource, &images, &Quiet).await?;
    }
    let mut endless = job(ground, "echo begun; exec sleep 600");
    endless.timeout_secs = 600;
    endless.mounts.push(Mount { volume: "data".to_owned(), path: "/data".to_owned() });
    let begun = Begun::default();
    tokio::select! {
        ended = engine.run(&endless, &images, &begun) => return Err(format!("it ended by itself: {ended:?}").into()),
        () = begun.0.notified() => {}
    }
    let removed = wait::until(Duration::from_secs(30), Duration::from_millis(200), async || {
        match engine.remove(&ResourceId::Volume("data".to_owned())).await {
            Ok(()) => Look::Done(()),
            Err(error) => Look::<_, EngineError>::Pending(error.to_string()),
        }
    });
    Ok(removed.await?)
}

pub async fn a_job_that_does_not_end_is_ended(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    engine.ensure(&Resource::Network, &images, &Quiet).await?;
    let endless = Job { timeout_secs: 2, ..job(ground, "echo waiting; sleep 60") };
    let ended = engine.run(&endless, &images, &Quiet).await;
    let said = ended.err().ok_or("the job ended by itself")?.to_string();
    assert!(said.contains("2 s") && said.contains("waiting"), "{said}");
    Ok(())
}

pub async fn data_in_a_volume_outlives_its_member(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    engine.ensure(&volume("data"), &images, &Quiet).await?;
    let mut described = with_volume(workload(ground, "probe-1"), "data");
    ensured(ground, &described).await?;
    shell(&*engine, &described.member, "echo kept > /data/kept").await?;
    described.env.insert("MORE".to_owned(), "1".to_owned());
    ensured(ground, &described).await?;
    assert_eq!(shell(&*engine, &described.member, "cat /data/kept").await?.stdout, "kept\n");
    engine.remove(&super::id("probe-1")).await?;
    ensured(ground, &described).await?;
    assert_eq!(shell(&*engine, &described.member, "cat /data/kept").await?.stdout, "kept\n");
    Ok(())
}

pub async fn secret_variables_reach_the_process(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    engine.ensure(&secret("probe"), &images, &Quiet).await?;
    let mut described = workload(ground, "probe-1");
    let script = r#"echo "<$URL|$1>"; exec sleep 60"#;
    described.command = ["/bin/sh", "-c", script, "zero", "two words"].map(str::to_owned).into();
    described.stop.grace_secs = 0;
    described.secret_env.insert("URL".to_owned(), Text::new(format!("it's \"{}\" $HOME", Text::secret("probe"))));
    ensured(ground, &described).await?;
    let value = engine.secrets(&["probe".to_owned()].into()).await?.remove("probe").ok_or("no secret was made")?;
    printed(&*engine, &described.member, &format!("<it's \"{value}\" $HOME|two words>")).await?;
    let asked = engine.in_environment(&described, &["/bin/sh", "-c", r#"echo "$URL""#].map(str::to_owned));
    let told = engine.exec(&described.member, &asked, None).await?.finish().await?;
    assert_eq!(told.stdout, format!("it's \"{value}\" $HOME\n"));
    Ok(())
}

pub async fn members_find_each_other_by_name_and_alias(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut first = workload(ground, "probe-1");
    first.names = vec!["probe-rw".to_owned()];
    let first_seen = ensured(ground, &first).await?;
    let second = workload(ground, "probe-2");
    ensured(ground, &second).await?;
    let ip = first_seen.internal_ip.ok_or("no address")?.to_string();
    for name in ["probe-1", "probe-rw"] {
        let found = shell(&*engine, &second.member, &format!("getent hosts {name}")).await?;
        assert_eq!(found.stdout.split_whitespace().next(), Some(ip.as_str()), "{name}: {found:?}");
    }
    Ok(())
}

pub async fn a_member_is_stopped_by_its_own_signal(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut described = workload(ground, "probe-1");
    let script = "trap 'echo by usr1; exit 0' USR1; trap '' TERM; echo started; while :; do sleep 0.1; done";
    described.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
    described.stop.signal = "SIGUSR1".to_owned();
    ensured(ground, &described).await?;
    printed(&*engine, &described.member, "started").await?;
    // Followed from before: what a member that is down has printed is gone with it on some engines.
    let log = engine.logs(&described.member, LogOptions { follow: true, ..LogOptions::default() }).await?;
    let (stopped, log) = tokio::join!(engine.set(&described.member, Power::Stopped), collect_text(log));
    stopped?;
    let log = log?;
    assert!(log.contains("by usr1"), "{log}");
    Ok(())
}

/// A mark on the data of a member that cannot be asked, which it finds when it comes back.
pub async fn a_file_reaches_the_volume_of_a_member_that_is_down_or_frozen(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    engine.ensure(&volume("data"), &images, &Quiet).await?;
    let described = with_volume(workload(ground, "probe-1"), "data");
    let running = ensured(ground, &described).await?;
    let faults = engine.faults().ok_or("the engine cannot hurt its members")?;
    let mut injected = vec![("killed\n", Fault::Kill)];
    injected.extend(ground.abilities().faults.contains(&Fault::Pause).then_some(("frozen\n", Fault::Pause)));
    for (content, fault) in injected {
        faults.inject(&described.member, fault).await?;
        let mut mark = file(content);
        mark.path = "/data/deep/mark".to_owned();
        engine.put_files(&described.member, &[mark], &OnChange::Nothing).await?;
        engine.set(&described.member, Power::Running).await?;
        let seen =
            shell(&*engine, &described.member, "stat -c '%u:%g %a' /data/deep/mark; cat /data/deep/mark").await?;
        assert_eq!(seen.stdout, format!("1000:2000 644\n{content}"), "{fault}: {seen:?}");
        assert_eq!(observed(&*engine, &described.member).await?.files, running.files, "it is data");
    }
    engine.set(&described.member, Power::Stopped).await?;
    let mut mark = file("stopped\n");
    mark.path = "/data/deep/mark".to_owned();
    engine.put_files(&described.member, &[mark], &OnChange::Nothing).await?;
    assert_eq!(engine.read_file(&described.member, "/data/deep/mark").await?.as_deref(), Some(&b"stopped\n"[..]));
    engine.remove(&super::id("probe-1")).await?;
    ensured(ground, &described).await?;
    let seen = shell(&*engine, &described.member, "cat /data/deep/mark").await?;
    assert_eq!(seen.stdout, "stopped\n", "it lies on the volume, not in the member that is gone");
    Ok(())
}
