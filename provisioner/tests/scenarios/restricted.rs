//! Members as a restricted cluster runs them: a numeric user, no privilege and no way to one, a root file system that is
//! read-only but for volumes, scratch directories and the directories that hold their files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use provisioner_core::manifest::parse;
use provisioner_core::stack::{Stack as Declared, Workload};
use serde_json::{Value, json};

use crate::harness::{Scenario, Stack, docker, eventually, root};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("restricted_members_have_no_privilege_and_no_way_to_one", without_privileges),
    ("restricted_members_serve_from_a_read_only_root", read_only),
];

fn without_privileges() {
    let stack = Stack::dev();
    let members = stack.containers();
    assert!(members.len() > 20, "{members:?}");
    for member in members.keys() {
        let status = docker(&["exec", member, "cat", "/proc/1/status"]);
        let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
        for user in of("Uid:").split_whitespace() {
            assert_ne!(user, "0", "{member} runs as root");
        }
        // Bounding too: not even a file that carries a capability gives one.
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(of(set), "0000000000000000", "{member} {set}");
        }
        assert_eq!(of("NoNewPrivs:"), "1", "{member} can gain privileges");
    }
}

/// Every container is made anew from itself with a read-only root, and the whole stack is proven on them.
fn read_only() {
    let text = std::fs::read_to_string(root().join("manifests/dev.yaml")).unwrap();
    let stack = Stack::of("sc-restricted", |_| text.clone());
    stack.ok(&["up", "--no-verify"]);
    let declared = declared(&text);
    let mut images = Vec::new();
    for container in stack.containers().into_keys() {
        let member = container.strip_prefix("sc-restricted-").unwrap();
        images.push(make_anew(&container, declared.get(member).unwrap_or_else(|| panic!("{member} is declared"))));
    }
    // Members come back in any order, and the route closed.
    let report = eventually("everything is proven on read-only roots", Duration::from_secs(180), || {
        for verb in [&["up", "--no-verify"][..], &["verify"]] {
            let ran = stack.run(verb);
            if ran.code != 0 {
                eprintln!("{}{}", ran.stderr, ran.stdout);
                return None;
            }
            if verb == ["verify"] {
                return Some(ran.stdout);
            }
        }
        None
    });
    assert!(report.contains(" checks passed"), "{report}");
    for container in stack.containers().into_keys() {
        let read_only = docker(&["inspect", "-f", "{{.HostConfig.ReadonlyRootfs}}", &container]);
        assert_eq!(read_only.trim(), "true", "{container} was made anew by up");
        docker(&["rm", "--force", "--volumes", &container]);
    }
    stack.ok(&["down", "--volumes", "--yes"]);
    docker(&[&["rmi"][..], &images.iter().map(String::as_str).collect::<Vec<_>>()].concat());
}

fn declared(text: &str) -> BTreeMap<String, Workload> {
    let manifest = parse(text.as_bytes()).unwrap();
    let resources = provisioner_components::all().into_iter().flat_map(|component| component.declare(&manifest));
    let stack = Declared::new(manifest.name.clone(), resources);
    stack.workloads().map(|workload| (workload.member.to_string(), workload.clone())).collect()
}

/// The image of the container as it is, its files included.
fn make_anew(container: &str, workload: &Workload) -> String {
    let image = format!("sc-restricted/{}:1", workload.member);
    let found: Value = serde_json::from_str(&docker(&["inspect", container])).unwrap();
    docker(&["commit", container, &image]);
    docker(&["rm", "--force", container]);

    let mut body = found[0]["Config"].clone();
    body["Image"] = json!(image);
    // Filled with what the image has there, and writable.
    body["Volumes"] = holders(workload).into_iter().map(|folder| (folder, json!({}))).collect();
    body["HostConfig"] = found[0]["HostConfig"].clone();
    body["HostConfig"]["ReadonlyRootfs"] = json!(true);
    // The engine gives it the mode of the directory that it covers, whatever mode is asked for here.
    let owner = workload.user.map(|(user, group)| format!(",uid={user},gid={group}")).unwrap_or_default();
    let scratch = workload.scratch.iter().map(|folder| (folder.clone(), json!(format!("rw,exec{owner}"))));
    body["HostConfig"]["Tmpfs"] = scratch.collect();
    for (_, network) in found[0]["NetworkSettings"]["Networks"].as_object().unwrap() {
        let aliases = network["Aliases"].as_array().unwrap().iter().filter(|alias| !is_id(&found, alias));
        let name = body["HostConfig"]["NetworkMode"].as_str().unwrap().to_owned();
        body["NetworkingConfig"]["EndpointsConfig"][name]["Aliases"] = aliases.cloned().collect();
    }
    create(container, &body);
    docker(&["start", container]);
    image
}

fn is_id(found: &Value, alias: &Value) -> bool {
    found[0]["Id"].as_str().unwrap().starts_with(alias.as_str().unwrap())
}

/// The topmost directories that hold files of the workload and are no volume of it.
fn holders(workload: &Workload) -> BTreeSet<String> {
    let secret = (!workload.secret_env.is_empty()).then_some("/run/provisioner");
    let files = workload.files.iter().map(|file| Path::new(&file.path).parent().unwrap().to_str().unwrap());
    let all: BTreeSet<&str> = files.chain(secret).collect();
    let is_below = |folder: &str, other: &str| folder != other && Path::new(folder).starts_with(other);
    all.iter().filter(|folder| !all.iter().any(|other| is_below(folder, other))).map(|it| (*it).to_owned()).collect()
}

/// The command line cannot say all that an inspected container is.
fn create(container: &str, body: &Value) {
    let url = format!("http://engine/v1.41/containers/create?name={container}");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail-with-body", "--unix-socket", "/var/run/docker.sock"]);
    curl.args(["-H", "Content-Type: application/json", "--data-binary", "@-", &url]);
    let mut curl = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    curl.stdin.take().unwrap().write_all(body.to_string().as_bytes()).unwrap();
    let output = curl.wait_with_output().unwrap();
    assert!(output.status.success(), "{container}: {}", String::from_utf8_lossy(&output.stdout));
}
