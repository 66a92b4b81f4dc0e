//! `init`: what is written is a manifest, and nothing is written that is none.

use provisioner::streams::Terminals;

use crate::world::{World, snapshot};

/// A project without a manifest.
fn project() -> World {
    let world = World::new();
    std::fs::remove_dir_all(world.directory.path().join("manifests")).unwrap();
    world
}

fn written(world: &World) -> String {
    std::fs::read_to_string(world.manifest()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_program_of_ones_own_from_flags() {
    let world = project();
    snapshot!("init_binary", world.shown("init --app-binary app --name shop").await);
    snapshot!("init_binary_manifest", written(&world));
    // The path was given from here, and the manifest lies elsewhere.
    world.ok("plan --env dev").await;
}

#[tokio::test(start_paused = true)]
async fn an_image_of_ones_own_from_flags() {
    let world = project();
    let words = ["init", "--env", "staging", "--name", "web", "--app-image", "registry.example.com/web:1.4"];
    let command =
        ["--serve", "gunicorn 'shop.wsgi' -b 0.0.0.0:9000", "--migrate", "./manage.py migrate", "--port", "9000"];
    let rest = ["--health", "/healthz", "--without", "rabbitmq,elasticsearch,mail,monitoring,tls"];
    let ran = world.run_words(&[&words[..], &command, &rest].concat()).await;
    assert_eq!(ran.code, 0, "{}", ran.shown());
    let path = world.directory.path().join("manifests/staging.yaml");
    snapshot!("init_image_manifest", std::fs::read_to_string(path).unwrap());
    world.ok("config --env staging").await;
}

#[tokio::test(start_paused = true)]
async fn whatever_is_left_out_it_is_a_manifest() {
    let systems = ["rabbitmq", "elasticsearch", "mail", "monitoring", "tls"];
    for chosen in 1..32_usize {
        let world = project();
        let without: Vec<_> = (0..5).filter(|bit| chosen & (1 << bit) != 0).map(|bit| systems[bit]).collect();
        world.ok(&format!("init --app-binary app --name shop --without {}", without.join(","))).await;
        let config = world.ok("config --env dev").await.stdout;
        for system in without.into_iter().filter(|system| *system != "tls") {
            assert!(!config.contains(&format!("\n{system}:")), "{system}: {config}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_replaced_only_when_told() {
    let world = World::new();
    let before = written(&world);
    snapshot!("init_again", world.shown("init --app-binary app").await);
    assert_eq!(written(&world), before);
    world.ok("init --app-binary app --force").await;
    assert_ne!(written(&world), before);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_manifest_is_not_written() {
    let world = project();
    snapshot!("init_without_app", world.shown("init").await);
    let bad = ["init", "--app-image", "two words", "--serve", "app", "--health", "healthz"];
    snapshot!(
        "init_absurd",
        world.run_words(&bad).await.shown().replace(&world.directory.path().display().to_string(), "[dir]")
    );
    snapshot!("init_open_quote", world.run_words(&["init", "--app-image", "a", "--serve", "it's"]).await.shown());
    assert!(!world.manifest().exists());
    std::fs::write(world.directory.path().join("manifests"), "a file").unwrap();
    snapshot!("init_no_directory", world.shown("init --app-binary app").await);
}

#[tokio::test(start_paused = true)]
async fn on_a_terminal_it_asks() {
    let mut world = project();
    world.terminals = Terminals { stdin: true, stdout: false, stderr: true };
    world.stdin =
        "Web Shop\nweb\nregistry.example.com/web:1\n/app serve\n\nhealthz\n/healthz\nno\nno\n\nno\nperhaps\nn\n";
    snapshot!("init_asks", world.shown("init").await);
    snapshot!("init_asked_manifest", written(&world));
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_answering_gets_no_manifest() {
    let mut world = project();
    world.terminals = Terminals { stdin: true, stdout: false, stderr: true };
    world.stdin = "web\n";
    snapshot!("init_unanswered", world.shown("init").await);
    assert!(!world.manifest().exists());
}
