//! What is applied, as people would write it.

use std::collections::BTreeMap;

use provisioner_core::name::{Member, StackName};
use provisioner_core::stack::{
    Expose, File, ImageId, Job, Limits, Mount, OnChange, Port, Probe, Probes, Restart, Stop, Text, Volume, Workload,
};
use serde_json::{Value, json};

use super::{Described, Entry, files_secret, helper, job, making, volume, workload};
use crate::access::{AccessMode, Exposure, Options};
use crate::labels::{self, Labels, Names};

fn names() -> Names {
    Names { stack: StackName::new("prod").unwrap(), namespace: "prod".to_owned(), is_given: false }
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn file(path: &str, content: &str) -> File {
    File {
        path: path.to_owned(),
        mode: 0o640,
        owner: (70, 70),
        content: Text::new(content),
        on_change: OnChange::Restart,
    }
}

/// A database member: data, files with a secret, shared memory, its own signal, never restarted.
fn database() -> Workload {
    Workload {
        member: Member::nth("postgres", 2),
        component: "postgres".to_owned(),
        image: ImageId("postgres".to_owned()),
        command: argv(&["postgres", "-D", "/data"]),
        env: BTreeMap::from([("TZ".to_owned(), "UTC".to_owned())]),
        secret_env: BTreeMap::from([("PASSWORD".to_owned(), Text::new(Text::secret("postgres")))]),
        files: vec![
            file("/etc/postgres/postgres.conf", "port = 5432\n"),
            file("/etc/tls/server.key", &Text::secret("tls-postgres.key")),
            file("/data/marker", "x"),
        ],
        mounts: vec![Mount { volume: "postgres-2-data".to_owned(), path: "/data".to_owned() }],
        names: vec!["postgres-any".to_owned()],
        ports: vec![
            Port::new("postgres", 5432, Expose::Checks).reached_by(&["postgres", "route"]),
            Port::new("debug", 5433, Expose::Checks),
        ],
        user: Some((70, 70)),
        scratch: vec!["/run/postgresql".to_owned(), "/tmp".to_owned()],
        limits: Limits { memory_bytes: Some(384 << 20), cpu_millis: Some(1500), shm_bytes: Some(128 << 20) },
        stop: Stop { signal: "SIGINT".to_owned(), grace_secs: 60 },
        restart: Restart::Never,
        probes: Some(Probes::ready(Probe::Command { argv: argv(&["pg_isready", "-q"]) })),
        after: Vec::new(),
    }
}

/// A web server: nothing of its own, reached by people, as the image says.
fn web() -> Workload {
    Workload {
        member: Member::nth("nginx", 1),
        component: "nginx".to_owned(),
        image: ImageId("nginx".to_owned()),
        command: Vec::new(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: vec![file("/etc/nginx/nginx.conf", "events {}\n")],
        mounts: Vec::new(),
        names: Vec::new(),
        ports: vec![Port::new("http", 8080, Expose::Address { ip: "0.0.0.0".parse().unwrap(), port: 80 })],
        user: Some((101, 101)),
        scratch: Vec::new(),
        limits: Limits { memory_bytes: Some(64 << 20), ..Limits::default() },
        stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 0 },
        restart: Restart::UnlessStopped,
        probes: Some(Probes {
            leave_secs: 5,
            ..Probes::ready(Probe::http(8080, "/health")).started(Probe::Tcp { port: 8080 }, 60)
        }),
        after: Vec::new(),
    }
}

fn rendered(options: &Options, described: &Workload) -> String {
    let names = names();
    let described = Described {
        names: &names,
        options,
        workload: described,
        image: "provisioner/x:1",
        in_cluster: "registry.example/x@sha256:ab",
        instance: "i1",
    };
    yaml(&workload(&described).all().collect::<Vec<_>>())
}

fn yaml(objects: &[Value]) -> String {
    objects.iter().map(|object| serde_yaml::to_string(object).unwrap()).collect::<Vec<_>>().join("---\n")
}

#[test]
fn a_member_with_data_is_a_stateful_set_of_one() {
    insta::assert_snapshot!(rendered(&Options::default(), &database()));
}

#[test]
fn a_member_without_data_is_a_deployment_of_one() {
    let options =
        Options { expose: Exposure::LoadBalancer, pull_secrets: vec!["registry".to_owned()], ..Options::default() };
    insta::assert_snapshot!(rendered(&options, &web()));
}

#[test]
fn a_volume_is_one_pods_alone() {
    let described =
        Volume { name: "postgres-2-data".to_owned(), component: "postgres".to_owned(), size_bytes: Some(20 << 30) };
    let options = Options {
        storage_class: Some("fast".to_owned()),
        access_mode: AccessMode::ReadWriteOncePod,
        ..Options::default()
    };
    insta::assert_snapshot!(yaml(&[volume(&names(), &options, &described)]));
}

fn migration() -> Job {
    Job {
        name: "migrate".to_owned(),
        component: "app".to_owned(),
        image: ImageId("app".to_owned()),
        command: argv(&["app", "migrate"]),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: Vec::new(),
        mounts: Vec::new(),
        user: Some((10001, 10001)),
        scratch: vec!["/tmp".to_owned()],
        limits: Limits::default(),
        timeout_secs: 60,
    }
}

#[test]
fn a_job_runs_once() {
    insta::assert_snapshot!(yaml(&[job(&names(), &Options::default(), &migration(), "app:1", 300)]));
}

#[test]
fn a_job_that_decides_where_a_volume_lies_keeps_apart_from_its_component() {
    let apart = |described: &Job| {
        let rendered = job(&names(), &Options::default(), described, "i", 300);
        rendered["spec"]["template"]["spec"]["affinity"].clone()
    };
    let mounts = database().mounts;
    assert_eq!(apart(&Job { mounts, ..migration() }), super::pod::apart(&names(), labels::COMPONENT, "app"));
    assert_eq!(apart(&migration()), Value::Null);
}

#[test]
fn a_member_leaves_by_its_own_signal_and_in_its_own_time() {
    let mut described = web();
    let container = |described: &Workload| {
        let names = names();
        let described = Described {
            names: &names,
            options: &Options::default(),
            workload: described,
            image: "i",
            in_cluster: "i",
            instance: "i1",
        };
        let spec = workload(&described).controller["spec"]["template"]["spec"].take();
        (spec["containers"][0].clone(), spec["terminationGracePeriodSeconds"].clone())
    };
    let (web, grace) = container(&described);
    assert_eq!((&web["lifecycle"]["preStop"], grace), (&json!({"sleep": {"seconds": 5}}), json!(6)));
    described.stop = Stop { signal: "SIGQUIT".to_owned(), grace_secs: 30 };
    let (web, grace) = container(&described);
    let argv = web["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
    assert_eq!((&argv[argv.len() - 2..], grace), (&[json!("SIGQUIT"), json!("5")][..], json!(35)));
    described.probes = Some(Probes::ready(Probe::Http { port: 1, path: "/".to_owned(), tls: true }));
    let (web, grace) = container(&described);
    let argv = web["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
    assert_eq!((argv.last(), grace), (Some(&json!("SIGQUIT")), json!(30)));
    assert_eq!(web["readinessProbe"]["httpGet"]["scheme"], "HTTPS");
    assert_eq!((&web["startupProbe"], &web["livenessProbe"]), (&Value::Null, &Value::Null));
    described.probes = None;
    assert_eq!(container(&described).0["readinessProbe"], Value::Null);
}

/// A Secret's data can be read by whoever may read Secrets; a pod's description by many more.
#[test]
fn no_secret_and_no_file_is_in_what_describes_a_pod() {
    let text = rendered(&Options::default(), &database());
    assert!(!text.contains("@{secret:") && !text.contains("port = 5432") && !text.contains("PASSWORD"), "{text}");
}

#[test]
fn a_helper_sees_the_volumes_as_the_member_does_and_is_not_taken_for_it() {
    let names = names();
    let described = database();
    let described = Described {
        names: &names,
        options: &Options::default(),
        workload: &described,
        image: "i",
        in_cluster: "i",
        instance: "i1",
    };
    let set = workload(&described).controller;
    let template = &set["spec"]["template"];
    let helper = helper(&names, &Member::nth("postgres", 2), &template["spec"]);
    let of = |spec: &Value, what: &str| spec["containers"][0][what].clone();
    assert_eq!(of(&helper["spec"], "volumeMounts"), of(&template["spec"], "volumeMounts"));
    assert_eq!(helper["spec"]["initContainers"], Value::Null);
    assert_eq!(of(&helper["spec"], "lifecycle"), Value::Null);
    assert_ne!(helper["metadata"]["labels"], template["metadata"]["labels"]);
    assert_eq!(helper["metadata"]["labels"]["provisioner.dev/kind"], "helper");
}

/// Every object reads as its kind: a field that the API does not know would be dropped here.
#[test]
fn what_is_rendered_is_what_the_api_knows() {
    use k8s_openapi::api::{apps, core, networking, policy};

    fn same<T: serde::de::DeserializeOwned + serde::Serialize>(object: &Value) {
        let read: T = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(&serde_json::to_value(read).unwrap(), object);
    }
    let names = names();
    for described in [database(), web()] {
        let described = Described {
            names: &names,
            options: &Options::default(),
            workload: &described,
            image: "i",
            in_cluster: "i",
            instance: "i1",
        };
        let secret = Entry { path: "/etc/x".to_owned(), mode: 0o640, owner: (0, 0), content: vec![1] };
        same::<core::v1::Secret>(&files_secret(&names, "f", Labels::new(), &[secret], ("i", &BTreeMap::new())));
        for object in workload(&described).all() {
            match object["kind"].as_str().unwrap() {
                "StatefulSet" => same::<apps::v1::StatefulSet>(&object),
                "Deployment" => same::<apps::v1::Deployment>(&object),
                "Service" => same::<core::v1::Service>(&object),
                "ServiceAccount" => same::<core::v1::ServiceAccount>(&object),
                "NetworkPolicy" => same::<networking::v1::NetworkPolicy>(&object),
                "PodDisruptionBudget" => same::<policy::v1::PodDisruptionBudget>(&object),
                other => panic!("{other}"),
            }
        }
    }
}

/// What leads to a member can be made anew under it; another description is known by its own fingerprint besides.
#[test]
fn a_setting_of_the_engine_makes_only_that_otherwise_which_it_is_about() {
    let of = |options: &Options| making(&names(), options, &web(), "provisioner/x:1");
    let now = of(&Options::default());
    let open = of(&Options { expose: Exposure::NodePort, ..Options::default() });
    assert_eq!((open.process == now.process, open.around == now.around), (true, false));
    let pulled = of(&Options { pull_secrets: vec!["registry".to_owned()], ..Options::default() });
    assert_eq!((pulled.process == now.process, pulled.around == now.around), (false, true));
    let sized = of(&Options { volume_bytes: 1, ..Options::default() });
    assert_eq!(sized, now);
}
