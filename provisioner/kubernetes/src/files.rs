//! Files of members: how they get in, how a change is checked and taken over.
//!
//! One Secret holds them for the next pod; a running pod gets them by exec. The Secret comes last: a change that was cut
//! off is seen as not done.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Secret};
use provisioner_core::engine::{EngineError, Power};
use provisioner_core::name::Member;
use provisioner_core::stack::{File, Fingerprint, OnChange, SecretVersions, Text};
use serde_json::json;

use crate::connect::KubernetesEngine;
use crate::controllers::Controller;
use crate::inside::Seen;
use crate::labels::{self, Labels, Names};
use crate::pods;
use crate::render::{self, Entry, Placed};
use crate::secrets::Current;

/// Content on stdin, path and mode as arguments. Moved into place whole, so that nobody reads half of it.
const PUT: &str = r#"set -e
mkdir -p "${1%/*}"
rm -f "$1.new"
cat >"$1.new"
chmod "$2" "$1.new"
mv -f "$1.new" "$1""#;
const SIGNAL: &str = r#"kill -s "${1#SIG}" 1"#;

/// The secrets that the texts name.
fn named<'a>(texts: impl Iterator<Item = &'a Text>) -> BTreeSet<String> {
    texts.flat_map(Text::secrets).map(str::to_owned).collect()
}

impl KubernetesEngine {
    /// Files and secret variables with the values of their secrets in place, and the versions of these.
    pub(crate) async fn resolve_files(
        &self,
        files: &[File],
        variables: &BTreeMap<String, Text>,
    ) -> Result<(Vec<Entry>, SecretVersions), EngineError> {
        let secrets = named(files.iter().map(|file| &file.content).chain(variables.values()));
        let Current { values, versions } = self.current_secrets(&secrets).await?;
        let mut entries = Vec::new();
        for file in files {
            let content = file.content.resolve(&values)?.into_bytes();
            entries.push(Entry { path: file.path.clone(), mode: file.mode, owner: file.owner, content });
        }
        entries.extend(render::secret_env(variables, &values)?);
        Ok((entries, versions))
    }

    /// Puts files into a member and, if told so, has it take them over. A checker that refuses them gets the old ones
    /// back.
    pub(crate) async fn replace_files(
        &self,
        member: &Member,
        files: &[File],
        then: &OnChange,
    ) -> Result<(), EngineError> {
        let found = self.controller(member).await?;
        let volumes = found.volume_paths();
        let (entries, versions) = self.resolve_files(files, &BTreeMap::new()).await?;
        let is_data = |path: &str| render::placed(path, &volumes) == Placed::OnVolume;
        let pods = self.pods_of(member).await?;
        let up = pods.iter().find(|pod| pods::is_up(pod) && !pods::is_leaving(pod));
        match (up, then) {
            (Some(pod), OnChange::Nothing | OnChange::Restart) => self.put_all(member, pod, &entries).await?,
            (Some(pod), OnChange::Reload { check, signal }) => {
                self.put_checked(member, pod, &entries, check).await?;
                self.signal(member, pod, signal).await?;
            }
            (None, OnChange::Nothing) => {
                let data: Vec<Entry> = entries.iter().filter(|entry| is_data(&entry.path)).cloned().collect();
                if !data.is_empty() {
                    let put = async |pod: Pod| self.put_all(member, &pod, &data).await;
                    self.with_helper(member, &found, put).await?;
                }
            }
            (None, _) => return Err(EngineError::failed(format!("put files into {member}"), "it does not run")),
        }
        if *then == OnChange::Restart {
            // What the next pod gets, not yet noted as done.
            self.keep(&found, &entries, &BTreeMap::new(), is_data).await?;
            self.set_power(member, Power::Stopped).await?;
            self.set_power(member, Power::Running).await?;
        }
        // What lies on a volume is data, which is nobody's configuration.
        let configuration = files.iter().filter(|file| !is_data(&file.path));
        let fingerprints = configuration.map(|file| (file.path.clone(), file.fingerprint(&versions))).collect();
        self.keep(&found, &entries, &fingerprints, is_data).await
    }

    /// Keeps files for the next pod of this instance, and notes what they are. Data is kept only where the member was
    /// described with it.
    async fn keep(
        &self,
        found: &Controller,
        entries: &[Entry],
        fingerprints: &BTreeMap<String, Fingerprint>,
        is_data: impl Fn(&str) -> bool,
    ) -> Result<(), EngineError> {
        let member = found.member();
        let name = Names::files(&member);
        let held = self.find::<Secret>(&name).await?;
        let mut all: BTreeMap<String, Entry> = held
            .iter()
            .flat_map(|secret| render::entries(secret.data.as_ref().unwrap_or(&BTreeMap::new())))
            .map(|entry| (entry.path.clone(), entry))
            .collect();
        let mut is_changed = false;
        for entry in entries {
            if !is_data(&entry.path) || all.contains_key(&entry.path) {
                is_changed |= all.insert(entry.path.clone(), entry.clone()).as_ref() != Some(entry);
            }
        }
        let mut noted = held.as_ref().map(|secret| labels::read_files(&secret.metadata)).unwrap_or_default();
        for (path, fingerprint) in fingerprints {
            is_changed |= noted.insert(path.clone(), fingerprint.clone()).as_ref() != Some(fingerprint);
        }
        if !is_changed {
            return Ok(());
        }
        let component = labels::label(&found.meta, labels::COMPONENT).unwrap_or_default().to_owned();
        let of = Labels::from([(labels::COMPONENT.to_owned(), component)]);
        let all: Vec<Entry> = all.into_values().collect();
        let mut object = render::files_secret(&self.names, &name, of, &all, (&found.instance(), &noted));
        if let Some(version) = held.and_then(|secret| secret.metadata.resource_version) {
            // Of two who put files at the same time the second one is refused.
            object["metadata"]["resourceVersion"] = json!(version);
        }
        self.apply(&object).await
    }

    async fn put_all(&self, member: &Member, pod: &Pod, entries: &[Entry]) -> Result<(), EngineError> {
        for entry in entries {
            self.put(member, pod, entry).await?;
        }
        Ok(())
    }

    async fn put(&self, member: &Member, pod: &Pod, entry: &Entry) -> Result<(), EngineError> {
        let mode = format!("{:o}", entry.mode);
        let argv = ["/bin/sh", "-c", PUT, "sh", &entry.path, &mode].map(str::to_owned);
        let done = self.shell(member, pod, &argv, Some(entry.content.clone().into())).await?;
        if done.exit_code == 0 {
            return Ok(());
        }
        Err(EngineError::failed(format!("put {} into {member}", entry.path), done.stderr.trim()))
    }

    pub(crate) async fn signal(&self, member: &Member, pod: &Pod, signal: &str) -> Result<(), EngineError> {
        let argv = ["/bin/sh", "-c", SIGNAL, "sh", signal].map(str::to_owned);
        let done = self.shell(member, pod, &argv, None).await?;
        let failed = || EngineError::failed(format!("send {signal} to {member}"), done.stderr.trim());
        if done.exit_code == 0 { Ok(()) } else { Err(failed()) }
    }

    async fn put_checked(
        &self,
        member: &Member,
        pod: &Pod,
        entries: &[Entry],
        check: &[String],
    ) -> Result<(), EngineError> {
        if check.is_empty() {
            return self.put_all(member, pod, entries).await;
        }
        let paths: Vec<String> = entries.iter().map(|entry| entry.path.clone()).collect();
        let old = self.seen_in(member, pod, &paths).await?;
        self.put_all(member, pod, entries).await?;
        let operation = format!("check the files of {member} with `{}`", check.join(" "));
        let refusal = match self.shell(member, pod, check, None).await {
            Ok(done) if done.exit_code == 0 => return Ok(()),
            Ok(done) => {
                let said = format!("{}{}", done.stdout, done.stderr);
                EngineError::failed(operation, format!("exit code {}: {}", done.exit_code, said.trim()))
            }
            Err(error) => EngineError::failed(operation, error),
        };
        for (path, old) in paths.iter().zip(old) {
            if let Err(error) = self.put_back(member, pod, path, old).await {
                let detail = format!("{refusal}; and the old {path} could not be put back: {error}");
                return Err(EngineError::failed(format!("replace files of {member}"), detail));
            }
        }
        Err(refusal)
    }

    async fn put_back(&self, member: &Member, pod: &Pod, path: &str, old: Seen) -> Result<(), EngineError> {
        if let Seen::File { mode, owner, content } = old {
            return self.put(member, pod, &Entry { path: path.to_owned(), mode, owner, content }).await;
        }
        let remove = ["rm", "-f", path].map(str::to_owned);
        let removed = self.shell(member, pod, &remove, None).await?;
        let failed = || EngineError::failed(format!("put back {path} of {member}"), removed.stderr.trim());
        if removed.exit_code == 0 { Ok(()) } else { Err(failed()) }
    }
}
