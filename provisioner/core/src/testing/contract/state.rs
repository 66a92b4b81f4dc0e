//! What exists and what is observed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;

use super::{Ground, Outcome, ensured, file, id, images, observed, secret, volume, with_volume, workload};
use crate::drift::{self, FoundFile, Verdict};
use crate::engine::{EngineError, Power, Quiet};
use crate::name::Member;
use crate::observed::{Network, State};
use crate::stack::{Expose, Fingerprint, OnChange, Port, Resource, ResourceId, Restart, Secret, SecretSource, Text};

pub async fn everything_ensured_is_observed(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    assert!(engine.observe().await?.is_empty());
    for resource in [Resource::Network, volume("probe-1-data"), secret("probe")] {
        engine.ensure(&resource, &images, &Quiet).await?;
    }
    let described = with_volume(workload(ground, "probe-1"), "probe-1-data");
    let found = ensured(ground, &described).await?;
    let seen = engine.observe().await?;
    let reference = ground.image().reference();
    assert!(seen.images.contains(&reference) && seen.network == Network::Present, "{seen:?}");
    assert_eq!(seen.volumes, BTreeSet::from(["probe-1-data".to_owned()]));
    assert_eq!(seen.secrets.keys().collect::<Vec<_>>(), ["probe"]);
    assert_eq!(seen.workloads.keys().collect::<Vec<_>>(), [&described.member]);
    assert_eq!(found.spec, Some(described.spec_fingerprint(&reference)));
    assert_eq!(found.files, described.file_fingerprints(&BTreeMap::new()));
    assert_eq!(found.making, engine.making(&described, &reference));
    assert_eq!((found.component.as_str(), found.image, found.state), ("probe", reference, State::Running));
    assert!(found.internal_ip.is_some() && !found.instance.is_empty());
    Ok(())
}

pub async fn ensuring_again_keeps_the_instance(ground: &dyn Ground) -> Outcome {
    let described = workload(ground, "probe-1");
    let first = ensured(ground, &described).await?;
    assert_eq!(ensured(ground, &described).await?, first);
    Ok(())
}

pub async fn a_changed_description_or_file_makes_a_new_instance(ground: &dyn Ground) -> Outcome {
    let mut described = workload(ground, "probe-1");
    let first = ensured(ground, &described).await?;
    described.env.insert("MORE".to_owned(), "1".to_owned());
    let second = ensured(ground, &described).await?;
    described.files = vec![file("two\n")];
    let third = ensured(ground, &described).await?;
    assert!(first.instance != second.instance && second.instance != third.instance);
    assert_eq!(third.files, described.file_fingerprints(&BTreeMap::new()));
    assert_eq!(third.spec, Some(described.spec_fingerprint(&third.image)));
    Ok(())
}

pub async fn files_put_in_are_observed_without_a_new_instance(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut described = workload(ground, "probe-1");
    let first = ensured(ground, &described).await?;
    for content in ["two\n", "three\n"] {
        described.files = vec![file(content)];
        engine.put_files(&described.member, &described.files, &OnChange::Nothing).await?;
        let found = observed(&*engine, &described.member).await?;
        assert_eq!((&found.instance, found.files), (&first.instance, described.file_fingerprints(&BTreeMap::new())));
    }
    let again = ensured(ground, &described).await?;
    assert_eq!(again.instance, first.instance, "it already is as described");
    Ok(())
}

pub async fn a_new_instance_has_the_files_it_was_described_with(ground: &dyn Ground) -> Outcome {
    let mut described = workload(ground, "probe-1");
    ensured(ground, &described).await?;
    ground.engine().put_files(&described.member, &[file("two\n")], &OnChange::Nothing).await?;
    described.env.insert("MORE".to_owned(), "1".to_owned());
    let found = ensured(ground, &described).await?;
    assert_eq!(
        found.files,
        described.file_fingerprints(&BTreeMap::new()),
        "what was put into the old instance is gone with it"
    );
    Ok(())
}

pub async fn a_stopped_a_killed_and_a_lost_member_are_observed_as_such(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    for (name, power) in [("probe-1", Power::Stopped), ("probe-2", Power::Killed)] {
        let described = workload(ground, name);
        let running = ensured(ground, &described).await?;
        engine.set(&described.member, power).await?;
        let found = observed(&*engine, &described.member).await?;
        assert_eq!((found.state, found.instance), (State::Exited, running.instance), "{name}");
    }
    ground.lose(&Member::named("probe-1")).await;
    let seen = engine.observe().await?;
    assert_eq!(seen.workloads.keys().collect::<Vec<_>>(), [&Member::named("probe-2")]);
    Ok(())
}

pub async fn a_stopped_member_starts_again_as_the_same_instance(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let described = workload(ground, "probe-1");
    let first = ensured(ground, &described).await?;
    engine.set(&described.member, Power::Stopped).await?;
    engine.stopped(&described.member).await?;
    engine.set(&described.member, Power::Running).await?;
    let found = observed(&*engine, &described.member).await?;
    assert_eq!((found.state, &found.instance), (State::Running, &first.instance));
    engine.set(&described.member, Power::Stopped).await?;
    let found = ensured(ground, &described).await?;
    assert_eq!((found.state, found.instance), (State::Running, first.instance));
    Ok(())
}

pub async fn a_running_member_is_not_proven_stopped(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let described = workload(ground, "probe-1");
    let found = ensured(ground, &described).await?;
    let refused = engine.stopped(&described.member).await;
    let said = refused.err().ok_or("a running member was proven stopped")?.to_string();
    assert!(said.contains("running"), "{said}");
    engine.set(&described.member, Power::Killed).await?;
    let proof = engine.stopped(&described.member).await?;
    assert_eq!(proof.instance, found.instance);
    assert!(!proof.evidence.is_empty());
    Ok(())
}

pub async fn removing_what_is_gone_is_no_error(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    let described = with_volume(workload(ground, "probe-1"), "data");
    for resource in [volume("data"), secret("probe")] {
        engine.ensure(&resource, &images, &Quiet).await?;
    }
    ensured(ground, &described).await?;
    let ids = [
        id("probe-1"),
        ResourceId::Volume("data".to_owned()),
        ResourceId::Secret("probe".to_owned()),
        ResourceId::Network,
    ];
    for id in ids {
        engine.remove(&id).await?;
        engine.remove(&id).await?;
    }
    Ok(())
}

pub async fn something_foreign_in_a_members_place_has_no_spec_and_is_replaced(ground: &dyn Ground) -> Outcome {
    let described = workload(ground, "probe-1");
    images(ground).await?;
    ground.intrude(&described.member).await;
    let foreign = observed(&*ground.engine(), &described.member).await?;
    assert_eq!(foreign.spec, None);
    let found = ensured(ground, &described).await?;
    assert_ne!(found.instance, foreign.instance);
    assert_eq!(found.spec, Some(described.spec_fingerprint(&found.image)));
    Ok(())
}

pub async fn two_stacks_do_not_see_each_other(ground: &dyn Ground) -> Outcome {
    let (engine, neighbour, images) = (ground.engine(), ground.neighbour(), images(ground).await?);
    engine.ensure(&volume("data"), &images, &Quiet).await?;
    engine.ensure(&secret("probe"), &images, &Quiet).await?;
    ensured(ground, &workload(ground, "probe-1")).await?;
    assert!(neighbour.observe().await?.is_empty());
    assert!(neighbour.secrets(&BTreeSet::from(["probe".to_owned()])).await?.is_empty());

    neighbour.ensure(&volume("data"), &images, &Quiet).await?;
    for id in [id("probe-1"), ResourceId::Volume("data".to_owned()), ResourceId::Secret("probe".to_owned())] {
        neighbour.remove(&id).await?;
    }
    let seen = engine.observe().await?;
    assert!(seen.is_running(&Member::named("probe-1")) && seen.volumes.contains("data"));
    assert!(seen.secrets.contains_key("probe"));
    Ok(())
}

pub async fn a_certificate_is_made_again_only_for_a_reason(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    let authority = SecretSource::Authority { subject: "probe".to_owned(), days: 3650 };
    let authority = Resource::Secret(Secret { name: "ca".to_owned(), source: authority });
    let certificate = |name: &str| {
        let source = SecretSource::Certificate { issuer: "ca".to_owned(), names: vec![name.to_owned()], days: 90 };
        Resource::Secret(Secret { name: "tls-probe".to_owned(), source })
    };
    let names = BTreeSet::from(["tls-probe".to_owned()]);
    let seen = async || {
        let version = engine.observe().await?.secrets.get("tls-probe").map(|found| found.note.version.clone());
        Ok::<_, EngineError>((version, engine.secrets(&names).await?))
    };
    for resource in [&authority, &certificate("a"), &authority, &certificate("a")] {
        engine.ensure(resource, &images, &Quiet).await?;
    }
    let first = seen().await?;
    let mut described = workload(ground, "probe-1");
    described.files = vec![file(&Text::secret("tls-probe.crt"))];
    let before = ensured(ground, &described).await?;
    assert_eq!(ensured(ground, &described).await?, before);

    engine.ensure(&certificate("a"), &images, &Quiet).await?;
    assert_eq!(seen().await?, first, "nothing asks for another one");
    engine.ensure(&certificate("b"), &images, &Quiet).await?;
    let second = seen().await?;
    assert!(second.0 != first.0 && second.1 != first.1, "other names need another one");

    engine.put_files(&described.member, &described.files, &OnChange::Nothing).await?;
    let after = observed(&*engine, &described.member).await?;
    assert_eq!(after.instance, before.instance);
    assert_ne!(after.files, before.files, "a file with another certificate in it is another file");
    assert_eq!(after.files, described.file_fingerprints(&engine.observe().await?.secret_versions()));
    Ok(())
}

pub async fn another_value_of_a_secret_variable_makes_the_member_anew(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    let authority = SecretSource::Authority { subject: "probe".to_owned(), days: 3650 };
    let certificate = |name: &str| {
        let source = SecretSource::Certificate { issuer: "ca".to_owned(), names: vec![name.to_owned()], days: 90 };
        Resource::Secret(Secret { name: "tls-probe".to_owned(), source })
    };
    engine.ensure(&Resource::Secret(Secret { name: "ca".to_owned(), source: authority }), &images, &Quiet).await?;
    engine.ensure(&certificate("a"), &images, &Quiet).await?;
    let mut described = workload(ground, "probe-1");
    described.secret_env.insert("CERTIFICATE".to_owned(), Text::new(Text::secret("tls-probe.crt")));
    let before = ensured(ground, &described).await?;
    assert_eq!(ensured(ground, &described).await?, before);

    engine.ensure(&certificate("b"), &images, &Quiet).await?;
    let after = ensured(ground, &described).await?;
    assert_ne!(after.instance, before.instance, "a program reads its variables once");
    assert_eq!(after.files, described.file_fingerprints(&engine.observe().await?.secret_versions()));
    assert_eq!(ensured(ground, &described).await?, after);
    Ok(())
}

pub async fn secrets_are_generated_once_and_never_change(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    let names: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
    assert!(engine.secrets(&names).await?.is_empty());
    let wanted: Vec<Resource> = names.iter().chain(&names).map(|name| secret(name)).collect();
    for made in join_all(wanted.iter().map(|secret| engine.ensure(secret, &images, &Quiet))).await {
        made?;
    }
    let values = engine.secrets(&names).await?;
    assert_eq!(values.keys().cloned().collect::<BTreeSet<_>>(), names);
    for value in values.values() {
        assert!(value.len() == 24 && value.chars().all(|c| c.is_ascii_alphanumeric()));
    }
    for secret in &wanted {
        engine.ensure(secret, &images, &Quiet).await?;
    }
    assert_eq!(engine.secrets(&names).await?, values);
    assert!(engine.observe().await?.secrets.keys().eq(&names));

    engine.remove(&ResourceId::Secret("a".to_owned())).await?;
    let left = engine.secrets(&names).await?;
    assert_eq!(left.keys().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(left.get("b"), values.get("b"));
    Ok(())
}

pub async fn a_missing_secret_is_named_and_leaves_the_member_alone(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut described = workload(ground, "probe-1");
    let first = ensured(ground, &described).await?;
    let images = images(ground).await?;
    described.secret_env = BTreeMap::from([("PASSWORD".to_owned(), Text::new(Text::secret("nobody")))]);
    let refused = engine.ensure(&Resource::Workload(Arc::new(described.clone())), &images, &Quiet).await;
    assert!(matches!(&refused, Err(EngineError::Secret(missing)) if missing.name == "nobody"), "{refused:?}");
    assert_eq!(observed(&*engine, &described.member).await?, first);
    Ok(())
}

pub async fn ports_for_checks_are_published_on_loopback(ground: &dyn Ground) -> Outcome {
    let mut described = workload(ground, "probe-1");
    described.ports = vec![Port::new("http", 8080, Expose::Checks)];
    let found = ensured(ground, &described).await?;
    let address = ground.engine().address(&described.member, 8080).await?;
    assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
    assert_eq!(found.published, BTreeMap::from([(8080, address)]));
    let missing = ground.engine().address(&described.member, 9090).await;
    assert!(matches!(missing, Err(EngineError::NotFound { .. })), "{missing:?}");
    Ok(())
}

pub async fn a_port_for_members_is_published_nowhere(ground: &dyn Ground) -> Outcome {
    let mut described = workload(ground, "probe-1");
    described.ports = vec![Port::new("http", 8080, Expose::Nobody)];
    let found = ensured(ground, &described).await?;
    assert_eq!(found.published, BTreeMap::new());
    let missing = ground.engine().address(&described.member, 8080).await;
    assert!(matches!(missing, Err(EngineError::NotFound { .. })), "{missing:?}");
    Ok(())
}

pub async fn a_stack_whose_parts_are_removed_is_empty(ground: &dyn Ground) -> Outcome {
    let (engine, images) = (ground.engine(), images(ground).await?);
    engine.ensure(&volume("data"), &images, &Quiet).await?;
    engine.ensure(&secret("probe"), &images, &Quiet).await?;
    let described = with_volume(workload(ground, "probe-1"), "data");
    ensured(ground, &described).await?;
    engine.put_files(&described.member, &[file("two\n")], &OnChange::Nothing).await?;
    let ids = [
        id("probe-1"),
        ResourceId::Secret("probe".to_owned()),
        ResourceId::Volume("data".to_owned()),
        ResourceId::Network,
    ];
    for id in ids {
        engine.remove(&id).await?;
    }
    let seen = engine.observe().await?;
    assert!(seen.is_empty() && seen.secrets.is_empty(), "{seen:?}");
    Ok(())
}

pub async fn a_member_is_in_every_aspect_as_it_was_described(ground: &dyn Ground) -> Outcome {
    let mut described = with_volume(workload(ground, "probe-1"), "probe-1-data");
    described.env.insert("LOG".to_owned(), "plain".to_owned());
    described.names.push("probe".to_owned());
    described.ports.push(Port::new("http", 8000, Expose::Checks));
    described.limits.cpu_millis = Some(500);
    ground.engine().ensure(&volume("probe-1-data"), &images(ground).await?, &Quiet).await?;
    ensured(ground, &described).await?;
    let engine = ground.engine();
    let actual = engine.inspect(&described.member, &ground.image().reference()).await?;
    let compared = drift::workload(&described, &actual, true);
    assert!(compared.iter().all(|one| one.verdict == Verdict::Same), "{compared:#?}");
    Ok(())
}

pub async fn another_description_differs_in_the_aspects_that_it_names(ground: &dyn Ground) -> Outcome {
    let mut described = workload(ground, "probe-1");
    ensured(ground, &described).await?;
    let actual = ground.engine().inspect(&described.member, "provisioner/no-such-image:1").await?;
    described.limits.memory_bytes = Some(32 << 20);
    described.env.insert("MORE".to_owned(), "1".to_owned());
    described.command.push("more".to_owned());
    described.restart = Restart::Never;
    let compared = drift::workload(&described, &actual, true);
    let differing = compared.iter().filter(|one| one.because().is_some()).map(|one| one.what.as_str());
    assert_eq!(differing.collect::<Vec<_>>(), ["memory", "restart", "command", "env.MORE"]);
    let image = compared.iter().find(|one| one.what == "image").map(|one| &one.verdict);
    assert!(matches!(image, Some(Verdict::Unknown { .. })), "{image:?}");
    Ok(())
}

pub async fn files_are_read_with_content_mode_and_owner(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let described = workload(ground, "probe-1");
    ensured(ground, &described).await?;
    let paths = ["/etc/probe.conf", "/etc/no-such-file"].map(str::to_owned);
    for power in [Power::Running, Power::Killed] {
        engine.set(&described.member, power).await?;
        let found = engine.read_files(&described.member, &paths).await?;
        let content = Fingerprint::of_bytes(b"one\n");
        assert_eq!(found.get(&paths[0]), Some(&FoundFile::File { content, mode: 0o644, owner: (1000, 2000) }));
        assert_eq!(found.get(&paths[1]), Some(&FoundFile::Absent));
        assert_eq!(engine.read_file(&described.member, &paths[0]).await?.as_deref(), Some(&b"one\n"[..]));
        assert_eq!(engine.read_file(&described.member, &paths[1]).await?, None);
    }
    let missing = engine.read_files(&Member::named("nobody-1"), &paths).await;
    assert!(matches!(missing, Err(EngineError::NotFound { .. })), "{missing:?}");
    let missing = engine.inspect(&Member::named("nobody-1"), "image").await;
    assert!(matches!(missing, Err(EngineError::NotFound { .. })), "{missing:?}");
    Ok(())
}
