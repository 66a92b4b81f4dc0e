//! How files reach a pod: one Secret holds them with an index, an init container puts them in their places.
//!
//! A directory that holds a file and is on no volume is an empty directory of the pod, filled with what the image has
//! there. So it can be written, files can be replaced in a running pod, and everything else is read-only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use provisioner_core::stack::{Fingerprint, MissingSecret, Mount, SECRET_ENV_FILE, Text, secret_env_text};
use serde_json::{Value, json};

use crate::labels::{self, Kind, Labels, Names, write_files};

/// The key under which the places of all files are told: `KEY MODE OWNER PATH` a line.
const INDEX: &str = "index";

/// A file with the values of its secrets in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) mode: u32,
    /// As described. In a pod all files are its user's, which cannot give them away.
    pub(crate) owner: (u32, u32),
    pub(crate) content: Vec<u8>,
}

/// Where a path lies in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    OnVolume,
    /// In a directory that ends with the pod.
    InPod,
}

pub(crate) fn placed(path: &str, volumes: &[String]) -> Placed {
    let is_data = volumes.iter().any(|volume| Path::new(path).starts_with(volume));
    if is_data { Placed::OnVolume } else { Placed::InPod }
}

/// Directories that are not on a volume and hold one of `files`, or are to be written; whether a secret is in one.
pub(super) fn directories<'a>(
    files: impl Iterator<Item = (&'a str, bool)>,
    scratch: &'a [String],
    mounts: &[Mount],
) -> BTreeMap<String, bool> {
    let volumes: Vec<String> = mounts.iter().map(|mount| mount.path.clone()).collect();
    let holding = files.filter(|(path, _)| placed(path, &volumes) == Placed::InPod).filter_map(|(path, is_secret)| {
        let folder = Path::new(path).parent()?.to_str()?;
        (folder != "/").then_some((folder, is_secret))
    });
    let mut all: BTreeMap<String, bool> = BTreeMap::new();
    for (folder, is_secret) in holding.chain(scratch.iter().map(|folder| (folder.as_str(), false))) {
        *all.entry(folder.trim_end_matches('/').to_owned()).or_default() |= is_secret;
    }
    let outer: BTreeSet<String> = all.keys().filter(|folder| !is_within_another(folder, &all)).cloned().collect();
    let held = outer.into_iter().map(|folder| {
        let is_secret = all.iter().any(|(inner, is_secret)| *is_secret && Path::new(inner).starts_with(&folder));
        (folder, is_secret)
    });
    held.collect()
}

fn is_within_another(folder: &str, all: &BTreeMap<String, bool>) -> bool {
    all.keys().any(|other| other != folder && Path::new(folder).starts_with(other))
}

/// Puts the image's own content into each directory that is given, then the files. The index has a
/// line for each of them; what the image keeps from this user stays behind.
pub(super) const PLACE: &str = r#"set -eu
n=0
for dir do
  if [ -d "$dir" ]; then cp -a "$dir/." "/.provisioner/$n/" 2>/dev/null || :; fi
  n=$((n + 1))
done
while read -r key mode _ path; do
  to=$path n=0
  for dir do
    case $path in "$dir"/*) to=/.provisioner/$n/${path#"$dir"/} ;; esac
    n=$((n + 1))
  done
  mkdir -p "${to%/*}"
  rm -f "$to.new"
  cat "/.provisioner/files/$key" >"$to.new"
  chmod "$mode" "$to.new"
  mv -f "$to.new" "$to"
done </.provisioner/files/index"#;

/// The Secret of a member's or job's files. The order of `entries` does not matter.
pub(crate) fn files_secret(
    names: &Names,
    name: &str,
    of: Labels,
    entries: &[Entry],
    (instance, fingerprints): (&str, &BTreeMap<String, Fingerprint>),
) -> Value {
    let mut labels = names.labels(Kind::Files);
    labels.extend(of);
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut index = String::new();
    let mut data = serde_json::Map::new();
    for entry in sorted {
        // Keys must not be paths. Named after the path, a file keeps its key when another one comes or goes.
        let key = Fingerprint::of_bytes(entry.path.as_bytes()).to_string();
        let Entry { path, mode, owner: (user, group), .. } = entry;
        index.push_str(&format!("{key} {mode:o} {user}:{group} {path}\n"));
        data.insert(key, json!(base64(&entry.content)));
    }
    data.insert(INDEX.to_owned(), json!(base64(index.as_bytes())));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {labels::INSTANCE: instance, labels::FILES: write_files(fingerprints)},
        },
        "data": data,
    })
}

/// What such a Secret holds.
pub(crate) fn entries(data: &BTreeMap<String, k8s_openapi::ByteString>) -> Vec<Entry> {
    let index = data.get(INDEX).map(|index| String::from_utf8_lossy(&index.0).into_owned()).unwrap_or_default();
    let entries = index.lines().filter_map(|line| {
        let mut words = line.splitn(4, ' ');
        let (key, mode, owner, path) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let (user, group) = owner.split_once(':')?;
        Some(Entry {
            path: path.to_owned(),
            mode: u32::from_str_radix(mode, 8).ok()?,
            owner: (user.parse().ok()?, group.parse().ok()?),
            content: data.get(key)?.0.clone(),
        })
    });
    entries.collect()
}

/// As the API writes bytes.
fn base64(bytes: &[u8]) -> String {
    let written = serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec()));
    written.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The file with a process's secret variables.
pub(crate) fn secret_env(
    variables: &BTreeMap<String, Text>,
    values: &BTreeMap<String, String>,
) -> Result<Option<Entry>, MissingSecret> {
    Ok(secret_env_text(variables, values)?.map(env_entry))
}

fn env_entry(text: String) -> Entry {
    Entry { path: SECRET_ENV_FILE.to_owned(), mode: 0o400, owner: (0, 0), content: text.into_bytes() }
}

#[cfg(test)]
mod tests {
    use provisioner_core::name::StackName;

    use super::*;

    fn held(files: &[(&str, bool)], scratch: &[&str]) -> Vec<(String, bool)> {
        let scratch: Vec<String> = scratch.iter().map(|folder| (*folder).to_owned()).collect();
        let mounts = [Mount { volume: "data".to_owned(), path: "/data".to_owned() }];
        directories(files.iter().copied(), &scratch, &mounts).into_iter().collect()
    }

    #[test]
    fn a_directory_is_held_once_and_one_on_a_volume_not_at_all() {
        let files = [("/etc/app/key", true), ("/etc/app/conf.d/a", false), ("/data/x", true), ("/root.conf", false)];
        let expected = [("/etc/app".to_owned(), true), ("/tmp".to_owned(), false)];
        assert_eq!(held(&files, &["/tmp/", "/tmp/deep"]), expected);
        assert_eq!(held(&[("/etc/a", false), ("/etc/ssl/key", true)], &[]), [("/etc".to_owned(), true)]);
    }

    #[test]
    fn what_is_put_into_the_secret_is_read_back() {
        let names = Names { stack: StackName::new("dev").unwrap(), namespace: "dev".to_owned(), is_given: false };
        let entry = |path: &str, content: &[u8]| Entry {
            path: path.to_owned(),
            mode: 0o640,
            owner: (70, 70),
            content: content.into(),
        };
        let put = [entry("/etc/a b.conf", b"one\n"), entry("/etc/b", &[0, 255])];
        let object = files_secret(&names, "files-a", Labels::new(), &put, ("i", &BTreeMap::new()));
        let secret: k8s_openapi::api::core::v1::Secret = serde_json::from_value(object).unwrap();
        assert_eq!(entries(&secret.data.unwrap()), put);
    }
}
