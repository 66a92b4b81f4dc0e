//! `open`: addresses with their logins, and the browser.

use std::os::unix::fs::PermissionsExt;

use provisioner_core::engine::{Engine, Power};
use provisioner_core::name::Member;

use crate::world::{World, snapshot};

async fn world() -> World {
    let mut world = World::new();
    world.has_console = true;
    world.ok("up -e dev").await;
    world.engine.take_calls();
    world
}

#[tokio::test(start_paused = true)]
async fn addresses_with_logins() {
    let world = world().await;
    snapshot!("open_all", world.shown("open -e dev").await);
    snapshot!("open_all_json", world.shown("open -e dev -o json").await);
    snapshot!("open_console", world.shown("open console -e dev").await);
    snapshot!("open_console_json", world.shown("open console -e dev -o json").await);
    snapshot!("open_http", world.shown("open http -e dev").await);
    snapshot!("open_help", world.shown("open -h").await);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_opened() {
    let world = world().await;
    snapshot!("open_nobody", world.shown("open nobody -e dev").await);
    world.engine.set(&Member::named("console-1"), Power::Stopped).await.unwrap();
    world.engine.tamper(|observed| {
        observed.workloads.get_mut(&Member::named("console-1")).unwrap().published.clear();
    });
    snapshot!("open_stopped", world.shown("open console -e dev").await);
    snapshot!("open_all_one_stopped", world.shown("open -e dev").await);
    world.ok("down -e dev").await;
    snapshot!("open_absent", world.shown("open http -e dev").await);
}

/// Time is real here, because a program really runs.
#[tokio::test]
async fn the_browser_gets_the_address_and_no_login() {
    let mut world = world().await;
    let opened = world.directory.path().join("opened");
    let opener = world.directory.path().join(if cfg!(target_os = "macos") { "open" } else { "xdg-open" });
    std::fs::write(&opener, format!("#!/bin/sh\necho \"$#\" \"$@\" >>'{}'\n", opened.display())).unwrap();
    std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let variables = &mut world.environment.variables;
    variables.insert("PATH".to_owned(), format!("relative:/nonexistent:{}", world.directory.path().display()));
    variables.insert("DISPLAY".to_owned(), ":0".to_owned());
    let url = world.json("open http -e dev").await["url"].as_str().unwrap().to_owned();
    let take = || {
        let text = std::fs::read_to_string(&opened).unwrap_or_default();
        std::fs::write(&opened, "").unwrap();
        text
    };

    // Nobody looks.
    world.ok("open http -e dev").await;
    assert_eq!(take(), "");
    world.ok("open console -e dev --browser").await;
    assert!(take().starts_with("1 http://127.0.0.1:4"), "the address is the only argument");

    world.terminals.stdout = true;
    world.ok("open http -e dev").await;
    assert_eq!(take(), format!("1 {url}\n"));
    for quiet in ["open http -e dev --print", "open http -e dev -o json", "open -e dev"] {
        world.ok(quiet).await;
        assert_eq!(take(), "", "{quiet}");
    }
    world.environment.variables.remove("DISPLAY");
    if !cfg!(target_os = "macos") {
        world.ok("open http -e dev").await;
        assert_eq!(take(), "", "no desktop");
    }
}

#[tokio::test]
async fn a_browser_that_does_not_start_is_an_error_only_where_it_was_asked_for() {
    let mut world = world().await;
    world.terminals.stdout = true;
    world.environment.variables.insert("DISPLAY".to_owned(), ":0".to_owned());
    let ran = world.ok("open http -e dev").await;
    assert!(ran.stderr.contains("start a browser: there is no program"), "{}", ran.shown());
    assert_eq!(world.run("open http -e dev --browser").await.code, 1);
    assert_eq!(world.run("open http -e dev --browser --print").await.code, 64);
    assert_eq!(world.run("open -e dev --browser").await.code, 64);
}
