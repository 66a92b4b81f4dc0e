//! A stack on services that exist already, as verbs tell of it. That it serves is shown on real services.

use crate::world::{MANIFEST, World, snapshot};

/// Nobody has these addresses (RFC 5737).
const EXTERNALS: &str = "\
postgres:
  external: {host: 192.0.2.1, read_host: 192.0.2.2, user: shop, password_file: password, database: shop, ca_file: ca.pem}
redis:
  external: {host: 192.0.2.3, password_file: password, tls: off}
elasticsearch:
  external: {host: search.example.com, user: shop, password_file: password, ca_file: ca.pem}
";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn world() -> World {
    let world = World::of(&format!("{MANIFEST}{EXTERNALS}"));
    for (name, text) in [("password", "hunter2\n"), ("ca.pem", CERTIFICATE)] {
        std::fs::write(world.directory.path().join("manifests").join(name), text).unwrap();
    }
    world
}

#[tokio::test(start_paused = true)]
async fn plan_status_and_open_say_external() {
    let world = world();
    let planned = world.ok("plan -e dev").await.stdout;
    snapshot!(
        "plan_external",
        planned.lines().filter(|line| line.starts_with("external")).collect::<Vec<_>>().join("\n")
    );
    assert!(
        !planned.contains("hunter2") && !planned.contains("postgres-1") && !planned.contains("route-1"),
        "{planned}"
    );
    let told = world.json("status -e dev --no-usage").await;
    assert_eq!(told["external"][1]["address"], "192.0.2.1:5432");
    assert_eq!(told["external"][1]["tls"], true);
    assert_eq!(told["external"][2]["tls"], false);
    let doors = world.json("open -e dev").await;
    let search = doors.as_array().unwrap().iter().find(|door| door["name"] == "elasticsearch").unwrap();
    assert_eq!(
        (search["state"].as_str(), search["url"].as_str()),
        (Some("external"), Some("https://search.example.com:9200/"))
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_done_to_members_is_refused() {
    let world = world();
    for verb in ["failover", "switchover --to postgres-2", "rejoin postgres-1", "drill failover", "watch"] {
        let ran = world.run(&format!("{verb} -e dev")).await;
        assert_ne!(ran.code, 0, "{verb}");
        assert!(
            ran.stderr.contains("postgres is external (192.0.2.1:5432): its operator fails it over"),
            "{}",
            ran.stderr
        );
    }
    let ran = world.run("scale postgres --replicas 2 -e dev").await;
    assert!(ran.code != 0 && ran.stderr.contains("scale: postgres is external"), "{}", ran.stderr);
}

#[tokio::test(start_paused = true)]
async fn the_manifest_that_is_shown_can_be_given_back() {
    let world = world();
    let shown = world.ok("config -e dev").await.stdout;
    let planned = world.ok("plan -e dev").await.stdout;
    world.write(&shown);
    assert_eq!(world.ok("config -e dev").await.stdout, shown);
    assert_eq!(world.ok("plan -e dev").await.stdout, planned);
}

#[tokio::test(start_paused = true)]
async fn a_file_without_a_certificate_is_named() {
    let world = world();
    std::fs::write(world.directory.path().join("manifests/ca.pem"), "no certificate").unwrap();
    let ran = world.run("plan -e dev").await;
    assert!(ran.stderr.contains("postgres.external.ca_file") && ran.stderr.contains("expected PEM"), "{}", ran.stderr);
}
