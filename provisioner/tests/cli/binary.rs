//! Exit codes of the built program, as scripts meet them. No engine is needed: none of these gets that far.

use std::path::Path;
use std::process::{Command, Output};

fn provisioner(directory: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_provisioner"))
        .args(words)
        .current_dir(directory)
        .env_remove("PROVISIONER_ENV")
        .env("DOCKER_HOST", "tcp://127.0.0.1:1")
        .output()
        .unwrap()
}

fn ended(directory: &Path, words: &[&str]) -> (i32, String) {
    let output = provisioner(directory, words);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn usage_is_64() {
    let directory = tempfile::tempdir().unwrap();
    for words in [
        &["frobnicate"][..],
        &["up", "--nonsense"],
        &["plan"],
        &["plan", "--env", "a", "--file", "b"],
        &["plan", "--env", "../secrets"],
        &["status", "--env", "dev", "--http-port", "99999"],
        &["up", "--env", "dev", "--timeout", "0s"],
        &["up", "--env", "dev", "--lock-timeout", "5"],
        &["up", "--env", "dev", "--name", "UPPER"],
        &["exec", "redis-1"],
        &[],
    ] {
        let (code, stderr) = ended(directory.path(), words);
        assert_eq!(code, 64, "{words:?}: {stderr}");
    }
}

#[test]
fn help_and_version_are_0() {
    let directory = tempfile::tempdir().unwrap();
    for words in [&["--help"][..], &["--version"], &["help", "up"], &["completion", "bash"], &["down", "--help"]] {
        let (code, stderr) = ended(directory.path(), words);
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?}");
    }
}

#[test]
fn a_wrong_manifest_is_65_and_every_problem_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wrong.yaml");
    std::fs::write(&file, "name: dev\nnginx:\n  http_prot: 99999\npostgres:\n  replicas: -1\n").unwrap();
    let (code, stderr) = ended(directory.path(), &["plan", "--file", "wrong.yaml"]);
    assert_eq!(code, 65, "{stderr}");
    for expected in ["nginx.http_prot", "http_port", "postgres.replicas", "app"] {
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
}

#[test]
fn files_that_are_no_manifest_are_65() {
    let directory = tempfile::tempdir().unwrap();
    let large = vec![b'#'; 10 << 20];
    let deep = "[".repeat(100_000);
    let contents: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("binary", b"\x00\xff\xfe\x00"),
        ("list", b"- a\n- b\n"),
        ("large", &large),
        ("deep", deep.as_bytes()),
        ("tab", b"\tname: dev"),
    ];
    for (name, content) in contents {
        std::fs::write(directory.path().join(name), content).unwrap();
        let (code, stderr) = ended(directory.path(), &["plan", "--file", name]);
        assert_eq!(code, 65, "{name}: {stderr}");
        assert!(!stderr.contains("panicked") && stderr.len() < 2000, "{name}: {stderr}");
    }
    assert_eq!(ended(directory.path(), &["plan", "--file", "absent"]).0, 65);
    assert_eq!(ended(directory.path(), &["plan", "--file", "."]).0, 65);
    assert_eq!(ended(directory.path(), &["plan", "--env", "absent"]).0, 65);
}

#[test]
fn an_engine_that_does_not_answer_is_66() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("m.yaml"), "name: dev\napp:\n  image: example/app:1\n  serve: [app]\n")
        .unwrap();
    for words in [&["status", "--file", "m.yaml"][..], &["up", "--file", "m.yaml"], &["doctor"]] {
        let output = provisioner(directory.path(), words);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(66), "{words:?}: {said}");
        assert!(said.contains("127.0.0.1:1") && said.contains("hint: "), "{words:?}: {said}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let script = format!("set -o pipefail; {} completion bash | head -1", env!("CARGO_BIN_EXE_provisioner"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A kubeconfig with one context, whose server is at this address.
fn kubeconfig(directory: &Path, server: &str) -> std::path::PathBuf {
    let path = directory.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: production\nusers: []\nclusters:\n\
         - {{name: c, cluster: {{server: '{server}'}}}}\ncontexts:\n\
         - {{name: production, context: {{cluster: c, user: u}}}}\n- {{name: staging, context: {{cluster: c, user: u}}}}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn on_cluster(directory: &Path, kubeconfig: &Path, words: &[&str]) -> (i32, String) {
    let manifest = "name: dev\nkubernetes:\napp:\n  image: example/app:1\n  serve: [app]\n";
    std::fs::write(directory.join("m.yaml"), manifest).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_provisioner"))
        .args(words)
        .current_dir(directory)
        .env_remove("PROVISIONER_ENV")
        .env("HOME", directory)
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), said)
}

#[test]
fn a_cluster_is_never_the_current_one_by_accident() {
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig(directory.path(), "http://127.0.0.1:1");
    for verb in ["up", "plan", "status", "doctor", "down"] {
        let (code, said) = on_cluster(directory.path(), &kubeconfig, &[verb, "--file", "m.yaml"]);
        assert_eq!(code, 64, "{verb}: {said}");
        let expected = "error: no context is named, expected kubernetes.context in the manifest or --context\n\
                        \nhint: contexts of the kubeconfig: production, staging\n";
        assert!(said.contains(expected), "{verb}: {said}");
    }
}

#[test]
fn a_cluster_that_cannot_be_reached_is_66_with_what_helps() {
    let directory = tempfile::tempdir().unwrap();
    let gone = "http://127.0.0.1:1";
    let present = kubeconfig(directory.path(), gone);
    let absent = directory.path().join("absent");
    for (kubeconfig, context, expected) in [
        (&absent, "production", format!("no kubeconfig: looked for {}; name one with KUBECONFIG", absent.display())),
        (
            &present,
            "prod",
            "use context \"prod\": the kubeconfig has production, staging; name one with --context".into(),
        ),
        (&present, "production", format!("reach Kubernetes at {gone} (context production): ")),
    ] {
        for words in [&["status", "--file", "m.yaml"][..], &["up", "--file", "m.yaml"], &["doctor"]] {
            let words = [words, &["--context", context]].concat();
            let (code, said) = on_cluster(directory.path(), kubeconfig, &words);
            assert_eq!(code, 66, "{words:?}: {said}");
            assert!(said.contains(&expected), "{words:?}: {said}");
            assert!(!said.contains("DOCKER_HOST"), "{words:?}: {said}");
        }
    }
}
