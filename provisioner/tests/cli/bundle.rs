//! `bundle`: everything is in it but secrets.

use std::collections::BTreeMap;
use std::io::Read;

use crate::world::{MANIFEST, World, snapshot};

fn unpacked(world: &World, file: &str) -> BTreeMap<String, String> {
    let file = std::fs::File::open(world.directory.path().join(file)).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let name = path.split_once('/').unwrap().1.to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name, text);
    }
    files
}

#[tokio::test(start_paused = true)]
async fn a_bundle_tells_everything_but_secrets() {
    let world = World::of(&format!("{MANIFEST}  env:\n    API_KEY: something-only-we-know\n"));
    world.ok("up -e dev").await;
    let shown = world.ok("bundle -e dev --into help.tar.gz").await.shown();
    let directory = world.directory.path().display().to_string();
    let sizes = without_sizes(&shown.replace(&directory, "[dir]"));
    snapshot!("bundle", sizes);
    let files = unpacked(&world, "help.tar.gz");
    assert!(files["manifest.json"].contains("API_KEY") && !files["plan.txt"].is_empty(), "{files:?}");
    // The value that the memory engine gives to every secret.
    let secret = "x".repeat(24);
    for (name, text) in &files {
        assert!(!text.contains("something-only-we-know") && !text.contains(&secret), "{name}: {text}");
    }
}

/// Sizes differ with the length of the test's own paths.
fn without_sizes(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once(" (") {
        Some((name, _)) if line.starts_with("  ") => format!("{name}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn a_bundle_of_a_stack_that_cannot_be_asked_says_what_is_missing() {
    let world = World::new();
    world.ok("bundle -e dev --into help.tar.gz --no-verify").await;
    assert!(unpacked(&world, "help.tar.gz").contains_key("plan.txt"));
    snapshot!("bundle_nowhere", world.shown("bundle -e dev --into no/such/folder.tar.gz").await);
}
