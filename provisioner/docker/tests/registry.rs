//! Images go to a real registry: Debian's docker-registry, on a free port of loopback.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::query_parameters::{CreateImageOptions, ListImagesOptions, RemoveImageOptions};
use futures_util::TryStreamExt;
use provisioner_core::engine::Quiet;
use provisioner_core::images::{Images, Pushed};
use provisioner_core::name::StackName;
use provisioner_core::wait;
use provisioner_docker::DockerImages;
use support::{connect, raw};

const START_LIMIT: Duration = Duration::from_secs(20);
const LOGIN: (&str, &str) = ("ada", "s3cret-pass");
/// Of [`LOGIN`], by bcrypt.
const HTPASSWD: &str = "ada:$2y$05$abcdefghijklmnopqrstuuV7fpPozvyqJfnY19y0802WTlXUm6Rjy\n";
/// `ada:s3cret-pass`
const AUTH: &str = "YWRhOnMzY3JldC1wYXNz";

struct Registry {
    program: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Registry {
    async fn start(is_closed: bool) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/docker-registry.sh");
        let found = Command::new(script).output().unwrap();
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
        let path = String::from_utf8(found.stdout).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let within = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(within("htpasswd"), HTPASSWD).unwrap();
        let auth = format!("auth: {{htpasswd: {{realm: shop, path: '{}'}}}}\n", within("htpasswd"));
        let configuration = format!(
            "version: 0.1\nhttp: {{addr: '127.0.0.1:{port}'}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\n{}",
            within("data"),
            if is_closed { &auth } else { "" },
        );
        std::fs::write(within("config.yml"), configuration).unwrap();
        let log = File::create(within("log")).unwrap();
        let program = Command::new(path.trim())
            .args(["serve", &within("config.yml")])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { program, port, folder };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < START_LIMIT, "{}", registry.log());
            wait::pause(Duration::from_millis(20)).await;
        }
        registry
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Requests that brought bytes of a layer or a configuration.
    fn uploads(&self) -> usize {
        self.log().matches("\"PATCH /v2/").count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// An image of one small layer that no other test has.
struct Small(String);

impl Small {
    async fn make(case: &str) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(case.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, "case", case.as_bytes()).unwrap();
        let body = bollard::body_full(archive.into_inner().unwrap().into());
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(format!("provisioner/contract-{case}")),
            tag: Some("1".to_owned()),
            ..CreateImageOptions::default()
        };
        raw().create_image(Some(options), Some(body), None).try_collect::<Vec<_>>().await.unwrap();
        Self(format!("provisioner/contract-{case}:1"))
    }

    async fn forget(self) {
        raw().remove_image(&self.0, None::<RemoveImageOptions>, None).await.unwrap();
    }
}

async fn images(config_dir: Option<&Path>) -> DockerImages {
    connect().await.images(&StackName::new("contract-push").unwrap(), config_dir.map(Path::to_owned))
}

async fn tags() -> Vec<String> {
    let listed = raw().list_images(None::<ListImagesOptions>).await.unwrap();
    listed.into_iter().flat_map(|image| image.repo_tags).collect()
}

#[tokio::test]
async fn an_image_is_pushed_once_and_pulled_by_the_digest_that_was_told() {
    let (registry, small) = (Registry::start(false).await, Small::make("push").await);
    let (target, images) = (format!("{}/shop/provisioner/small", registry.host()), images(None).await);
    let Pushed { digest, layers } = images.push(&small.0, &target, &Quiet).await.unwrap();
    let uploads = registry.uploads();
    assert!(layers == 1 && uploads > 0, "{layers} layers, {uploads} uploads: {}", registry.log());
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");

    let again = images.push(&small.0, &target, &Quiet).await.unwrap();
    assert_eq!((again.digest.as_str(), again.layers, registry.uploads()), (digest.as_str(), 0, uploads));
    assert!(!tags().await.iter().any(|tag| tag.starts_with(&registry.host())), "a tag for the registry was left");

    small.forget().await;
    let options = CreateImageOptions {
        from_image: Some(target.clone()),
        tag: Some(digest.clone()),
        ..CreateImageOptions::default()
    };
    raw().create_image(Some(options), None, None).try_collect::<Vec<_>>().await.unwrap();
    raw().remove_image(&format!("{target}@{digest}"), None::<RemoveImageOptions>, None).await.unwrap();
}

#[tokio::test]
async fn a_closed_registry_takes_the_login_that_docker_keeps() {
    let (registry, small) = (Registry::start(true).await, Small::make("login").await);
    let target = format!("{}/small", registry.host());
    let said = images(None).await.push(&small.0, &target, &Quiet).await.unwrap_err().to_string();
    assert!(said.starts_with(&format!("push image {target}:1: ")) && said.contains("docker login"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let config = |auth: &str| format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registry.host());
    std::fs::write(folder.path().join("config.json"), config(AUTH)).unwrap();
    let pushed = images(Some(folder.path())).await.push(&small.0, &target, &Quiet).await.unwrap();
    assert_eq!(pushed.layers, 1);
    // ada:wrong
    std::fs::write(folder.path().join("config.json"), config("YWRhOndyb25n")).unwrap();
    let said = images(Some(folder.path())).await.push(&small.0, &target, &Quiet).await.unwrap_err().to_string();
    assert!(said.contains("docker login") && !said.contains(LOGIN.1) && !said.contains("wrong"), "{said}");
    small.forget().await;
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_an_error_that_names_the_image() {
    let small = Small::make("nowhere").await;
    // Port 9 (discard) of loopback: nobody answers there.
    let said = images(None).await.push(&small.0, "127.0.0.1:9/small", &Quiet).await.unwrap_err().to_string();
    assert!(said.starts_with("push image 127.0.0.1:9/small:1: "), "{said}");
    assert!(!tags().await.iter().any(|tag| tag.starts_with("127.0.0.1:9/")), "a tag for the registry was left");
    small.forget().await;
}
