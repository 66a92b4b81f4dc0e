//! Stacks whose manifest names a cluster: where they are is always said, and never left to chance.

use provisioner_core::clock;
use provisioner_core::engine::Engine;
use provisioner_core::name::Member;
use provisioner_core::observed::State;
use provisioner_core::secret::{self, Issuer};
use provisioner_core::stack::{Secret, SecretSource};

use crate::world::{MANIFEST, World, snapshot};

const CLUSTER: &str = "\
name: dev
environment: production
kubernetes:
  context: kind-shop
  registry: 10.0.0.9:5000/shop
app:
  binary: ../app
";

fn world() -> World {
    World::of(CLUSTER)
}

#[tokio::test(start_paused = true)]
async fn plan_and_up_say_where() {
    let world = world();
    let planned = world.ok("plan -e dev redis").await;
    assert!(planned.stdout.ends_with("stack dev (context kind-shop, namespace dev): 9 steps\n"), "{}", planned.shown());
    let up = world.ok("up -e dev --context kind-other --namespace shop-2").await;
    let told = "stack dev (context kind-other, namespace shop-2)";
    assert!(up.stderr.contains(&format!("\n{told}: ")), "{}", up.shown());
    assert!(up.stderr.contains("ok  cluster  context kind-other, namespace shop-2"), "{}", up.shown());
    assert!(up.stdout.contains(&format!("{told} is up")), "{}", up.shown());
    assert!(up.stdout.contains("verify --env dev --context kind-other --namespace shop-2"), "{}", up.shown());
    let value = world.json("plan -e dev").await;
    assert_eq!(value["cluster"], serde_json::json!({"context": "kind-shop", "namespace": "dev"}));
}

#[tokio::test(start_paused = true)]
async fn production_asks_with_the_place_in_the_question() {
    let world = world();
    world.ok("up -e dev").await;
    world.write(&format!("{CLUSTER}redis:\n  settings:\n    maxmemory: 80mb\n"));
    let ran = world.run("up -e dev").await;
    assert_eq!(ran.code, 71, "{}", ran.shown());
    let question = "interrupt service of stack dev (context kind-shop, namespace dev) (~ replace workload redis-1";
    assert!(ran.stderr.contains(question), "{}", ran.shown());
    world.ok("up -e dev --yes").await;
}

/// As somebody's own authority would issue it.
fn pair(host: &str) -> String {
    let made = |name: &str, source, issuer: Option<&str>| {
        let issuer = issuer.map(|value| Issuer { value, version: "1" });
        let secret = Secret { name: name.to_owned(), source };
        secret::make(&secret, issuer, None, "1".to_owned(), clock::unix_seconds()).unwrap()
    };
    let authority = made("ca", SecretSource::Authority { subject: "somebody".to_owned(), days: 30 }, None).value;
    let source = SecretSource::Certificate { issuer: "ca".to_owned(), names: vec![host.to_owned()], days: 30 };
    made("pair", source, Some(&authority)).value
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_taken_over_from_a_secret_that_somebody_else_keeps() {
    let cluster = CLUSTER.replace("  registry", "  namespace: shop\n  registry");
    let world = World::of(&format!("{CLUSTER}nginx:\n  tls:\n    secret: shop-tls\n"));
    snapshot!("kubernetes_no_namespace_to_look_in", world.shown("doctor -e dev").await);
    world.write(&format!("{cluster}nginx:\n  tls:\n    secret: shop-tls\n"));
    snapshot!("kubernetes_no_such_secret", world.shown("doctor -e dev").await);
    world.engine.keep_pair("shop-tls", "no PEM".to_owned());
    snapshot!("kubernetes_no_certificate_in_it", world.shown("up -e dev").await);
    world.engine.keep_pair("shop-tls", pair("a.example"));
    let planned = world.ok("plan -e dev nginx").await.stdout;
    assert!(planned.contains("create secret tls-nginx") && !planned.contains("secret ca"), "{planned}");
    world.ok("up -e dev").await;
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
    world.engine.keep_pair("shop-tls", pair("b.example"));
    let planned = world.ok("plan -e dev").await.stdout;
    assert!(planned.contains("renew secret tls-nginx, because what is in shop-tls changed"), "{planned}");
    assert!(planned.contains("reload workload nginx-1"), "{planned}");
    world.ok("up -e dev").await;
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
    // Without it what was taken over stays, and nobody is kept from bringing back what is down.
    world.engine.keep_pair("shop-tls", "no PEM".to_owned());
    let planned = world.run("plan -e dev --detailed-exitcode").await;
    assert_eq!(planned.code, 0, "{}", planned.shown());
    assert!(
        planned.stderr.contains("refused by up: nginx.tls.secret shop-tls: find a private key"),
        "{}",
        planned.shown()
    );
    world.engine.tamper(|observed| {
        let redis = Member::nth("redis", 1);
        observed.workloads.get_mut(&redis).unwrap().state = State::Exited;
    });
    world.ok("start -e dev").await;
    world.write(&format!("{MANIFEST}nginx:\n  tls:\n    secret: shop-tls\n"));
    snapshot!("kubernetes_a_secret_without_a_cluster", world.shown("plan -e dev").await);
    world.write(&format!("{CLUSTER}nginx:\n  tls: {{secret: shop-tls, certificate: a.crt, key: a.key}}\n"));
    snapshot!("kubernetes_a_secret_beside_files", world.shown("plan -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn a_second_stack_has_a_namespace_of_its_own() {
    let world = World::of(&CLUSTER.replace("  registry", "  namespace: shop\n  registry"));
    let of = |value: &serde_json::Value| value["cluster"]["namespace"].as_str().unwrap().to_owned();
    assert_eq!(of(&world.json("plan -e dev").await), "shop");
    assert_eq!(of(&world.json("plan -e dev --name second").await), "second");
    assert_eq!(of(&world.json("plan -e dev --name second --namespace shop-2").await), "shop-2");
}

#[tokio::test(start_paused = true)]
async fn ports_of_this_machine_are_no_matter() {
    let world = world();
    let planned = world.ok("config -e dev --name second --http-port 81").await;
    assert!(planned.stdout.contains("http_port: 81"), "{}", planned.shown());
    let up = world.ok("up -e dev --name second").await;
    assert!(!up.stderr.contains("is free and was picked") && !up.stderr.contains("127.0.0.1:"), "{}", up.shown());
}

#[tokio::test(start_paused = true)]
async fn each_engine_refuses_what_the_other_is_asked_with_one_line() {
    let (docker, cluster) = (World::of(MANIFEST), world());
    for (world, command) in [
        (&docker, "plan -e dev --context kind-shop"),
        (&docker, "up -e dev --namespace shop"),
        (&docker, "images push -e dev --registry r:5000"),
        (&docker, "config rbac -e dev"),
        (&docker, "render -e dev"),
        (&cluster, "prune -e dev"),
        (&cluster, "prune --context kind-shop"),
        (&cluster, "plan -e dev --namespace Shop"),
        (&cluster, "images push -e dev --registry https://r"),
    ] {
        let ran = world.run(command).await;
        assert_eq!(ran.code, 64, "{}", ran.shown());
        assert_eq!(ran.stdout, "", "{}", ran.shown());
        assert!(world.engine.take_calls().iter().all(|call| call == "observe"), "{command}");
    }
    snapshot!("kubernetes_flag_on_docker", docker.shown("plan -e dev --context kind-shop").await);
    snapshot!("kubernetes_push_on_docker", docker.shown("images push -e dev --registry r:5000").await);
    snapshot!("kubernetes_prune", cluster.shown("prune -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn the_role_that_suffices() {
    snapshot!("kubernetes_rbac", world().shown("config rbac -e dev --namespace shop").await);
}

#[tokio::test(start_paused = true)]
async fn the_manifest_in_its_own_keys() {
    let world = world();
    let shown = world.ok("config -e dev").await.stdout;
    assert!(
        shown.contains("kubernetes:\n  context: kind-shop\n  access_mode: read_write_once_pod\n  service: cluster_ip\n  registry: 10.0.0.9:5000/shop\n")
    );
    world.write(&shown.replace("[dir]", ""));
    assert_eq!(world.ok("config -e dev").await.stdout, shown);
}

#[tokio::test(start_paused = true)]
async fn images_are_pushed_once_and_noted_by_digest() {
    let world = world();
    snapshot!("kubernetes_push", world.shown("images push -e dev --registry 127.0.0.1:5000").await);
    let pushed = world.registry.lock().unwrap().clone();
    assert!(pushed.contains_key("127.0.0.1:5000/provisioner/postgres"), "{pushed:?}");
    let observed = world.engine.observe().await.unwrap();
    let record = observed.records.0["images"].clone();
    for (target, reference) in &pushed {
        let id = target.rsplit('/').next().unwrap();
        let in_cluster = record.value[reference].as_str().unwrap();
        assert!(in_cluster.starts_with(&format!("10.0.0.9:5000/shop/provisioner/{id}@sha256:")), "{in_cluster}");
    }
    let again = world.ok("images push -e dev --registry 127.0.0.1:5000 -o json").await;
    let again: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert!(again.as_array().unwrap().iter().all(|image| image["layers"] == 0), "{again}");
    let unchanged = world.engine.observe().await.unwrap().records.0["images"].clone();
    assert_eq!(unchanged, record);
}

#[tokio::test(start_paused = true)]
async fn a_changed_app_gives_way_in_the_record_and_somebodys_own_image_is_left() {
    let world = world();
    world.ok("images push -e dev").await;
    std::fs::write(world.directory.path().join("app"), "another static binary").unwrap();
    world.write(&format!("{CLUSTER}redis:\n  image: redis:7\n"));
    world.ok("images push -e dev").await;
    let observed = world.engine.observe().await.unwrap();
    let record = observed.records.0["images"].value.as_object().unwrap().clone();
    let apps: Vec<&String> = record.keys().filter(|reference| reference.starts_with("provisioner/app:")).collect();
    assert_eq!(apps.len(), 1, "{record:?}");
    assert!(!record.contains_key("redis:7"), "{record:?}");
}

#[tokio::test(start_paused = true)]
async fn production_and_staging_are_one_shape() {
    let mut members = Vec::new();
    for (name, flags) in [("prod", " --context kind-shop"), ("staging", "")] {
        let text = std::fs::read_to_string(format!("{}/../manifests/{name}.yaml", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let world = World::of(&text.replace("../target/x86_64-unknown-linux-musl/debug/app", "../app"));
        let ran = world.run(&format!("plan -e dev --detailed-exitcode{flags}")).await;
        assert_eq!(ran.code, 2, "{}", ran.shown());
        snapshot!(format!("plan_of_{name}"), ran.shown());
        let plan = world.json(&format!("plan -e dev{flags}")).await;
        let created = plan["steps"].as_array().unwrap().iter().filter(|step| step["action"] == "create");
        let targets = created.filter_map(|step| step["target"].as_str()?.strip_prefix("workload ").map(str::to_owned));
        members.push(targets.collect::<std::collections::BTreeSet<String>>());
    }
    let differ: Vec<&String> = members[0].symmetric_difference(&members[1]).collect();
    // A mail server and machines that the cluster's own watches.
    assert_eq!(differ, ["mail-1", "node-exporter-1"]);
    let of_system = |prefix: &str| {
        let numbers = members[0].iter().filter_map(|member| member.strip_prefix(prefix));
        numbers.filter(|rest| rest.parse::<u32>().is_ok()).count()
    };
    assert_eq!(["postgres-", "backend-", "elasticsearch-", "route-"].map(of_system), [3, 3, 3, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_up_applies_is_rendered_in_order_and_without_any_secret() {
    let world = World::of(&CLUSTER.replace("app:\n", "nginx:\n  tls: {}\napp:\n"));
    let ran = world.run("render -e dev").await;
    assert_eq!(ran.code, 1, "{}", ran.shown());
    assert!(ran.stderr.contains("provisioner images push"), "{}", ran.shown());
    world.ok("images push -e dev").await;
    let rendered = world.shown("render -e dev").await;
    assert_eq!(rendered, world.shown("render -e dev").await);
    assert!(!rendered.contains("kind: Secret\n"), "{rendered}");
    snapshot!("kubernetes_render", rendered);
    let objects = world.json("render -e dev").await;
    let named = |object: &serde_json::Value| format!("{}/{}", object["kind"], object["metadata"]["name"]);
    let all: Vec<String> = objects.as_array().unwrap().iter().map(named).collect();
    let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "{all:?}");
}
