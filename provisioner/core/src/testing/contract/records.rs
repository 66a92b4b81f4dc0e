//! Compare-and-swap.

use futures_util::future::join_all;
use serde_json::json;

use super::{Ground, Outcome};
use crate::record::{self, RecordError};

pub async fn an_absent_record_is_written_by_who_expects_none(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let records = engine.records();
    assert_eq!(records.get("probe.one").await?, None);
    let version = records.put_if("probe.one", 0, json!({"epoch": 1})).await?;
    let found = records.get("probe.one").await?.ok_or("the record is gone")?;
    assert_eq!((found.version, found.value), (version, json!({"epoch": 1})));

    let next = records.put_if("probe.one", version, json!({"epoch": 2})).await?;
    assert!(next > version, "version {next} after {version}");
    let found = records.get("probe.one").await?.ok_or("the record is gone")?;
    assert_eq!(found.value, json!({"epoch": 2}));
    assert_eq!(records.get("probe.two").await?, None, "a key has its own versions");
    Ok(())
}

pub async fn a_conflict_names_the_version_that_was_found(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let records = engine.records();
    let first = records.put_if("probe", 0, json!("first")).await?;
    let second = records.put_if("probe", first, json!("second")).await?;
    for stale in [0, first] {
        let refused = records.put_if("probe", stale, json!("late")).await;
        let Err(RecordError::Conflict { found, expected, .. }) = refused else {
            return Err(format!("expected a conflict, found {refused:?}").into());
        };
        assert_eq!((found, expected), (second, stale));
    }
    let refused = records.remove_if("probe", first).await;
    assert!(matches!(refused, Err(RecordError::Conflict { found, .. }) if found == second), "{refused:?}");
    assert_eq!(records.get("probe").await?.map(|record| record.value), Some(json!("second")));
    Ok(())
}

pub async fn of_twenty_writers_one_wins(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut expected = 0;
    for round in 0..3 {
        let writers = (0..20).map(|writer| engine.records().put_if("probe", expected, json!([round, writer])));
        let written = join_all(writers).await;
        let mut winners = Vec::new();
        for (writer, written) in written.into_iter().enumerate() {
            match written {
                Ok(version) => winners.push((writer, version)),
                Err(RecordError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let [(writer, version)] = *winners else { return Err(format!("winners: {winners:?}").into()) };
        let found = engine.records().get("probe").await?.ok_or("the record is gone")?;
        assert_eq!((found.version, found.value), (version, json!([round, writer])));
        expected = version;
    }
    Ok(())
}

pub async fn a_removed_record_is_absent_and_its_version_is_not_used_again(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let records = engine.records();
    // Something else that the stack holds: the last record of a stack may take every trace with it.
    records.put_if("probe.other", 0, json!(0)).await?;
    let version = records.put_if("probe", 0, json!("a")).await?;
    records.remove_if("probe", version).await?;
    assert_eq!(records.get("probe").await?, None);
    let late = records.put_if("probe", version, json!("late")).await;
    assert!(matches!(late, Err(RecordError::Conflict { found: 0, .. })), "{late:?}");
    let again = records.put_if("probe", 0, json!("b")).await?;
    assert!(again > version, "version {again} was used before, the last was {version}");
    Ok(())
}

pub async fn records_are_part_of_the_snapshot(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let kept = engine.records().put_if("probe.kept", 0, json!({"a": [1, "\"x\""]})).await?;
    let removed = engine.records().put_if("probe.removed", 0, json!(1)).await?;
    engine.records().remove_if("probe.removed", removed).await?;
    let observed = engine.observe().await?.records;
    assert_eq!(observed.version("probe.kept"), kept);
    assert_eq!(observed.read::<serde_json::Value>("probe.kept")?, Some(json!({"a": [1, "\"x\""]})));
    assert_eq!(observed.version("probe.removed"), 0);
    assert!(ground.neighbour().observe().await?.records.0.is_empty());
    Ok(())
}

pub async fn twenty_increments_are_all_counted(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let increments =
        (0..20).map(|_| record::update::<u64, _>(engine.records(), "probe", |count| Some(count.unwrap_or(0) + 1)));
    for written in join_all(increments).await {
        written?;
    }
    assert_eq!(engine.observe().await?.records.read::<u64>("probe")?, Some(20));
    Ok(())
}
