//! Finding and reading the manifest.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use provisioner_core::manifest::{AppSource, Kubernetes, MANIFEST_SIZE_MAX, Manifest, parse};
use provisioner_core::stack::Fingerprint;

use super::exit::{Exit, Stop};
use super::secret_files;
use super::settings::{ManifestSource, Settings, manifests_directory};

/// Whether the app's own program must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// What is planned depends on its content.
    Needed,
    /// The verb only looks at, stops or removes what is there.
    Unneeded,
}

pub(crate) fn load(settings: &Settings, program: Program) -> anyhow::Result<Manifest> {
    let (path, bytes) = written(settings)?;
    understand(settings, program, &path, &bytes)
}

/// The manifest's file and what is in it.
pub(super) fn written(settings: &Settings) -> anyhow::Result<(PathBuf, Vec<u8>)> {
    let path = locate(settings)?;
    let bytes = read(&path)?;
    Ok((path, bytes))
}

/// The manifest as if `bytes` were in its file.
pub(crate) fn understand(settings: &Settings, program: Program, path: &Path, bytes: &[u8]) -> anyhow::Result<Manifest> {
    let mut manifest = parse(bytes).with_context(|| format!("read manifest {}", path.display()))?;
    if let Some(name) = &settings.name {
        manifest.name = name.clone();
    }
    choose_cluster(&mut manifest, settings)?;
    find_program(&mut manifest, path, program)?;
    secret_files::read(&mut manifest, path, program)?;
    Ok(manifest)
}

/// What the command line says of the cluster goes before what the manifest says.
fn choose_cluster(manifest: &mut Manifest, settings: &Settings) -> Result<(), Stop> {
    let Settings { context, namespace, name, .. } = settings;
    match &mut manifest.kubernetes {
        Some(kubernetes) => {
            // A second stack beside the manifest's own has a namespace of its own, as everything else.
            if name.is_some() || namespace.is_some() {
                kubernetes.namespace.clone_from(namespace);
            }
            if context.is_some() {
                kubernetes.context.clone_from(context);
            }
            Ok(())
        }
        None if context.is_some() || namespace.is_some() => {
            let flag = if context.is_some() { "--context" } else { "--namespace" };
            let message = format!("{flag} is for stacks on Kubernetes, and {} runs on Docker", manifest.name);
            let hint = "a section `kubernetes:` in the manifest makes Kubernetes its engine";
            Err(Stop::new(Exit::Usage, message).hint(hint))
        }
        None => Ok(()),
    }
}

/// The cluster that manifest and command line name; `None`: Docker is meant.
pub(crate) fn cluster(settings: &Settings) -> anyhow::Result<Option<Kubernetes>> {
    match settings.manifest {
        ManifestSource::Nowhere => Ok(settings.cluster()),
        ManifestSource::Named(_) | ManifestSource::File(_) => Ok(load(settings, Program::Unneeded)?.kubernetes),
    }
}

fn locate(settings: &Settings) -> anyhow::Result<PathBuf> {
    let name = match &settings.manifest {
        ManifestSource::File(path) => return Ok(path.clone()),
        ManifestSource::Named(name) => name,
        ManifestSource::Nowhere => {
            let stop = Stop::new(Exit::Usage, "no manifest is named, expected --env NAME or --file FILE");
            return Err(stop.hint(available(settings)).into());
        }
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(is_plain) {
        let message = format!("--env {name:?}: found something else than letters, digits, - and _, expected a name");
        return Err(Stop::new(Exit::Usage, message).hint("name a file by its path with --file").into());
    }
    let directory = manifests_directory(&settings.directory);
    let path = directory.as_deref().map(|directory| directory.join(format!("{name}.yaml")));
    match path {
        Some(path) if path.is_file() => Ok(path),
        _ => {
            let message = format!("find manifests/{name}.yaml: not in {} or above", settings.directory.display());
            Err(Stop::new(Exit::Manifest, message).hint(available(settings)).into())
        }
    }
}

fn available(settings: &Settings) -> String {
    let listed = manifests_directory(&settings.directory).and_then(|directory| std::fs::read_dir(directory).ok());
    let stem = |path: PathBuf| match path.extension() {
        Some(extension) if extension == "yaml" => {
            path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).filter(|stem| !stem.starts_with('.'))
        }
        _ => None,
    };
    let mut names: Vec<String> =
        listed.into_iter().flatten().flatten().filter_map(|entry| stem(entry.path())).collect();
    names.sort();
    if names.is_empty() {
        return "there is no directory `manifests` with a .yaml file here or above".to_owned();
    }
    format!("manifests here: {}", names.join(", "))
}

/// Never more than a manifest may have, so that a device or a huge file given by mistake does no harm.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let unreadable = |error: std::io::Error| {
        let message = format!("read manifest {}: {error}", path.display());
        Stop::new(Exit::Manifest, message)
    };
    let found = std::fs::metadata(path).map_err(unreadable)?;
    if !found.is_file() {
        return Err(unreadable(std::io::Error::other("it is no regular file")).into());
    }
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MANIFEST_SIZE_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// A relative path of the app's program counts from the manifest's own directory, so that it does not matter where
/// the command is given.
fn find_program(manifest: &mut Manifest, manifest_path: &Path, program: Program) -> anyhow::Result<()> {
    let AppSource::Binary { file, digest } = &mut manifest.app.source else { return Ok(()) };
    *file = beside(manifest_path, file);
    if program == Program::Unneeded {
        return Ok(());
    }
    // A device or a pipe would be read for ever.
    let opened = match std::fs::metadata(&*file) {
        Ok(found) if !found.is_file() => Err(std::io::Error::other("it is no regular file")),
        other => other.and_then(|_| File::open(&*file)),
    };
    match opened.and_then(Fingerprint::of_reader) {
        Ok(content) => {
            *digest = content;
            Ok(())
        }
        Err(error) => {
            let message = format!("read app.binary {}: {error}, expected the app's program", file.display());
            let stop = Stop::new(Exit::Manifest, message);
            Err(stop.hint("build it with `make build`, or name a finished image with `app.image`").into())
        }
    }
}

/// A path of a manifest, which counts from the manifest's own directory.
pub(super) fn beside(manifest_path: &Path, file: &Path) -> PathBuf {
    match manifest_path.parent() {
        Some(directory) => without_detours(&directory.join(file)),
        None => file.to_owned(),
    }
}

/// `manifests/../app` as `app`, for people. A directory that is a link keeps its meaning only if nothing is left out,
/// so then nothing is.
fn without_detours(path: &Path) -> PathBuf {
    let mut short = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if short.file_name().is_some() && !short.is_symlink() => {
                short.pop();
            }
            Component::CurDir => {}
            other => short.push(other),
        }
    }
    short
}
