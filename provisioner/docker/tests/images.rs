//! Images on a real engine.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;

use bollard::query_parameters::RemoveImageOptions;
use provisioner_core::engine::{Engine, ImageReferences, Output, Quiet};
use provisioner_core::stack::{Fingerprint, Image, ImageId, ImageInput, Recipe, Resource, ResourceId};
use provisioner_core::testing::contract::Ground;
use support::{OnDocker, base, on_docker};

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Output for Told {
    fn line(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

fn images() -> ImageReferences {
    BTreeMap::from([(base().id().clone(), base().reference())])
}

fn recipe(name: &str, dockerfile: &str, inputs: Vec<ImageInput>) -> Image {
    let dockerfile = format!("ARG BASE\nFROM ${{BASE}}\n{dockerfile}");
    Image::Recipe(Recipe { id: ImageId(name.to_owned()), base: base().id().clone(), dockerfile, inputs })
}

async fn forget(ground: &OnDocker, image: &Image) {
    let _ = ground.raw.remove_image(&image.reference(), None::<RemoveImageOptions>, None).await;
}

#[tokio::test]
async fn a_recipe_is_built_once_and_tells_its_lines() {
    let ground = on_docker("recipe").await;
    let inline = ImageInput::Inline { path: "a/b.txt".to_owned(), mode: 0o600, content: "inline\n".to_owned() };
    let image = recipe("contract-recipe", "COPY a/b.txt /b.txt\nRUN echo built && cat /b.txt\n", vec![inline]);
    forget(&ground, &image).await;
    let told = Told::default();
    ground.engine.ensure(&Resource::Image(image.clone()), &images(), &told).await.unwrap();
    let lines = told.0.lock().unwrap().clone();
    assert!(lines.iter().any(|line| line == "built") && lines.iter().any(|line| line == "inline"), "{lines:?}");
    assert!(ground.engine.observe().await.unwrap().images.contains(&image.reference()));

    let told = Told::default();
    ground.engine.ensure(&Resource::Image(image.clone()), &images(), &told).await.unwrap();
    assert!(told.0.lock().unwrap().is_empty(), "it was built again");
    ground.engine.remove(&ResourceId::Image(image.id().clone())).await.unwrap();
    assert!(!ground.engine.observe().await.unwrap().images.contains(&image.reference()));
    ground.clean().await;
}

#[tokio::test]
async fn a_failed_build_ends_in_an_error_with_the_last_lines() {
    let ground = on_docker("failed").await;
    let image = recipe("contract-failed", "RUN echo the reason; exit 4\n", Vec::new());
    let error = ground.engine.ensure(&Resource::Image(image), &images(), &Quiet).await.unwrap_err().to_string();
    assert!(error.contains("the reason") && error.contains("non-zero code: 4"), "{error}");

    let missing = ImageInput::HostFile {
        path: "app".to_owned(),
        mode: 0o755,
        file: "/nowhere/app".into(),
        digest: Fingerprint::of_bytes(b""),
    };
    let image = recipe("contract-failed", "COPY app /app\n", vec![missing]);
    let error = ground.engine.ensure(&Resource::Image(image), &images(), &Quiet).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/app"), "{error}");
    ground.clean().await;
}

#[tokio::test]
async fn an_image_that_no_registry_has_is_an_error_that_names_it() {
    let ground = on_docker("reference").await;
    // Port 9 (discard) of loopback: nobody answers there.
    let reference = "127.0.0.1:9/nobody/nothing:1".to_owned();
    let image = Image::Reference { id: ImageId("own".to_owned()), reference };
    let error = ground.engine.ensure(&Resource::Image(image), &images(), &Quiet).await.unwrap_err().to_string();
    assert!(error.contains("pull image 127.0.0.1:9/nobody/nothing:1"), "{error}");
    ground.clean().await;
}

#[tokio::test]
async fn a_base_is_pulled_or_bootstrapped_where_there_is_none() {
    let ground = on_docker("bootstrap").await;
    let base = Image::Base { id: ImageId("contract-base".to_owned()), suite: "trixie".to_owned() };
    forget(&ground, &base).await;
    let told = Told::default();
    ground.engine.ensure(&Resource::Image(base.clone()), &ImageReferences::new(), &told).await.unwrap();
    assert!(!told.0.lock().unwrap().is_empty());
    let mut probe = recipe("contract-on-base", "RUN grep -q trixie /etc/os-release\n", Vec::new());
    if let Image::Recipe(recipe) = &mut probe {
        recipe.base = base.id().clone();
    }
    let images = BTreeMap::from([(base.id().clone(), base.reference())]);
    ground.engine.ensure(&Resource::Image(probe.clone()), &images, &Quiet).await.unwrap();
    forget(&ground, &probe).await;
    forget(&ground, &base).await;
    ground.clean().await;
}

#[tokio::test]
async fn a_large_host_file_never_lies_in_memory() {
    let ground = on_docker("large").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let size = 200 << 20;
    file.as_file().set_len(size).unwrap();
    let digest = Fingerprint::of_bytes(b"zeros");
    let input = ImageInput::HostFile { path: "big".to_owned(), mode: 0o644, file: file.path().to_owned(), digest };
    let image = recipe("contract-large", "COPY big /big\n", vec![input]);
    forget(&ground, &image).await;
    ground.engine.ensure(&Resource::Image(image.clone()), &images(), &Quiet).await.unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    forget(&ground, &image).await;
    ground.clean().await;
    assert!(kilobytes < 64 << 10, "peak memory {kilobytes} KiB while {size} bytes were sent");
}
