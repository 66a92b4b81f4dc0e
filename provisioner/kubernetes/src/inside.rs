//! What stands inside members, running or not.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::DeleteParams;
use provisioner_core::cleanup::Cleanup;
use provisioner_core::drift::FoundFile;
use provisioner_core::engine::{EngineError, Execution, OutputChunk};
use provisioner_core::name::Member;
use provisioner_core::stack::Fingerprint;

use crate::connect::KubernetesEngine;
use crate::controllers::Controller;
use crate::labels::{self, Kind, Names};
use crate::pods;
use crate::render::{self, Entry, Placed};

/// A configuration file is small; a bigger one would be something else.
const FILE_MAX: &str = "16777216";
/// One frame a path: a line that says what it is, and of a file as many bytes as the line says.
const LOOK: &str = r#"max=$1; shift
for path do
  if [ -L "$path" ] || { [ -e "$path" ] && [ ! -f "$path" ]; }; then echo other
  elif [ ! -e "$path" ]; then echo absent
  elif [ ! -r "$path" ]; then echo unreadable
  else
    set -- $(stat -c '%a %u %g %s' "$path")
    if [ "$4" -gt "$max" ]; then echo large; else echo "file $1 $2 $3 $4"; head -c "$4" "$path"; fi
  fi
done"#;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Absent,
    File { mode: u32, owner: (u32, u32), content: Vec<u8> },
    Other(&'static str),
}

impl Controller {
    /// Where its volumes are mounted.
    pub(crate) fn volume_paths(&self) -> Vec<String> {
        self.claims_by_path().into_keys().collect()
    }

    /// Path to claim.
    pub(crate) fn claims_by_path(&self) -> BTreeMap<String, String> {
        let volumes = self.template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let claims: BTreeMap<&str, &str> = volumes
            .filter_map(|volume| {
                Some((volume.name.as_str(), volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
            })
            .collect();
        let mounts = pods::main_of(&self.template).and_then(|main| main.volume_mounts.as_ref());
        let mounted = mounts
            .into_iter()
            .flatten()
            .filter_map(|mount| Some((mount.mount_path.clone(), (*claims.get(mount.name.as_str())?).to_owned())));
        mounted.collect()
    }

    /// Its process's numeric user and group.
    pub(crate) fn user(&self) -> Option<(u32, u32)> {
        let context = self.template.spec.as_ref()?.security_context.as_ref()?;
        let number = |id: Option<i64>| u32::try_from(id?).ok();
        Some((number(context.run_as_user)?, number(context.run_as_group)?))
    }
}

impl KubernetesEngine {
    pub(crate) async fn found_files(
        &self,
        member: &Member,
        paths: &[String],
    ) -> Result<BTreeMap<String, FoundFile>, EngineError> {
        let found = self.controller(member).await?;
        let held = self.held(member).await?;
        let seen = self.seen(member, &found, &held, paths).await?;
        let user = found.user();
        let files = paths.iter().zip(seen).map(|(path, seen)| {
            let described = held.iter().find(|entry| entry.path == *path).map(|entry| entry.owner);
            (path.clone(), as_found(seen, described, user))
        });
        Ok(files.collect())
    }

    pub(crate) async fn file_content(&self, member: &Member, path: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let found = self.controller(member).await?;
        let held = self.held(member).await?;
        let seen = self.seen(member, &found, &held, std::slice::from_ref(&path.to_owned())).await?;
        Ok(seen.into_iter().find_map(|seen| match seen {
            Seen::File { content, .. } => Some(content),
            _ => None,
        }))
    }

    /// What the next pod of the member gets.
    async fn held(&self, member: &Member) -> Result<Vec<Entry>, EngineError> {
        let held = self.find::<Secret>(&Names::files(member)).await?;
        Ok(held.and_then(|secret| secret.data).map(|data| render::entries(&data)).unwrap_or_default())
    }

    async fn seen(
        &self,
        member: &Member,
        found: &Controller,
        held: &[Entry],
        paths: &[String],
    ) -> Result<Vec<Seen>, EngineError> {
        let up = self.pods_of(member).await?.into_iter().find(|pod| pods::is_up(pod) && !pods::is_leaving(pod));
        if let Some(pod) = up {
            return self.seen_in(member, &pod, paths).await;
        }
        let volumes = found.volume_paths();
        let is_data = |path: &String| render::placed(path, &volumes) == Placed::OnVolume;
        let data: Vec<String> = paths.iter().filter(|path| is_data(path)).cloned().collect();
        let mut on_volume = BTreeMap::new();
        if !data.is_empty() {
            let looked =
                self.with_helper(member, found, async |pod: Pod| self.seen_in(member, &pod, &data).await).await?;
            on_volume.extend(data.iter().cloned().zip(looked));
        }
        // Of a member that is down there is nothing but its volumes and what its next pod gets.
        let user = found.user();
        let seen = paths.iter().map(|path| {
            let entry = held.iter().find(|entry| entry.path == *path);
            let kept = entry.map(|Entry { mode, owner, content, .. }| Seen::File {
                mode: *mode,
                owner: user.unwrap_or(*owner),
                content: content.clone(),
            });
            on_volume.remove(path).or(kept).unwrap_or(Seen::Absent)
        });
        Ok(seen.collect())
    }

    pub(crate) async fn seen_in(&self, member: &Member, pod: &Pod, paths: &[String]) -> Result<Vec<Seen>, EngineError> {
        let argv = ["/bin/sh", "-c", LOOK, "sh", FILE_MAX].map(str::to_owned);
        let argv: Vec<String> = argv.into_iter().chain(paths.iter().cloned()).collect();
        let operation = format!("read files of {member}");
        let (code, output, said) = whole(self.execute_in(member, pod, &argv, None).await?).await?;
        let seen = frames(&output).filter(|seen| seen.len() == paths.len() && code == 0);
        seen.ok_or_else(|| EngineError::failed(operation, format!("exit code {code}: {}", said.trim())))
    }

    /// Lets `use_it` look at the volumes of a member that is down, through a pod of the member's own image.
    pub(crate) async fn with_helper<T, F>(
        &self,
        member: &Member,
        found: &Controller,
        use_it: impl FnOnce(Pod) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let name = Names::helper(member);
        let operation = format!("reach the volumes of {member}");
        // A silent node lets go of no volume.
        for pod in self.pods_of(member).await? {
            self.kubernetes.silence.check(pods::node(&pod).unwrap_or_default(), &operation)?;
        }
        // Left by a run that was killed.
        self.remove_helper(&name).await?;
        let template = serde_json::to_value(&found.template.spec)
            .map_err(|error| EngineError::failed(operation.as_str(), error))?;
        let (pods, left): (Api<Pod>, _) = (self.api(), name.clone());
        let cleanup = Cleanup::unless_done(async move {
            let _ = pods.delete(&left, &DeleteParams::default()).await;
        });
        self.apply(&render::helper(&self.names, member, &template)).await?;
        let selector = format!("{},{}={member}", self.names.selector(Kind::Helper), labels::MEMBER);
        match self.await_started(&selector, &operation, &name).await {
            Ok(pod) => {
                let used = use_it(pod).await;
                cleanup.done();
                self.remove_helper(&name).await?;
                used
            }
            Err(error) => {
                cleanup.done();
                // It never ran, and its node may never say so.
                let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                self.delete_with::<Pod>(&name, params).await?;
                Err(error)
            }
        }
    }

    async fn remove_helper(&self, name: &str) -> Result<(), EngineError> {
        let params = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
        self.delete_with::<Pod>(name, params).await?;
        let gone = self.await_gone::<Pod>(name);
        let limit = Duration::from_secs(60);
        let timed_out = |_| EngineError::TimedOut { operation: format!("remove pod {name}"), after: limit };
        tokio::time::timeout(limit, gone).await.map_err(timed_out)?
    }
}

/// All of a command's output, byte for byte: exit code, standard output, what it complained about.
async fn whole(mut execution: Execution) -> Result<(i64, Vec<u8>, String), EngineError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = execution.output.try_next().await? {
        match chunk {
            OutputChunk::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            OutputChunk::Stderr(bytes) => stderr.extend_from_slice(&bytes),
        }
    }
    Ok((execution.exit.await?, stdout, String::from_utf8_lossy(&stderr).into_owned()))
}

/// `None`: the output is not what [`LOOK`] prints.
fn frames(mut output: &[u8]) -> Option<Vec<Seen>> {
    let mut all = Vec::new();
    while !output.is_empty() {
        let end = output.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&output[..end]).ok()?;
        output = &output[end + 1..];
        let words: Vec<&str> = line.split(' ').collect();
        all.push(match *words {
            ["absent"] => Seen::Absent,
            ["other"] => Seen::Other("no regular file"),
            ["unreadable"] => Seen::Other("a file that the member's user cannot read"),
            ["large"] => Seen::Other("a file too large to be read"),
            ["file", mode, user, group, length] => {
                let length: usize = length.parse().ok()?;
                let content = output.get(..length)?.to_vec();
                output = &output[length..];
                let owner = (user.parse().ok()?, group.parse().ok()?);
                Seen::File { mode: u32::from_str_radix(mode, 8).ok()?, owner, content }
            }
            _ => return None,
        });
    }
    Some(all)
}

/// A file that is the pod's user's counts as its described owner's: nobody can give it away in a restricted namespace.
fn as_found(seen: Seen, described: Option<(u32, u32)>, user: Option<(u32, u32)>) -> FoundFile {
    match seen {
        Seen::Absent => FoundFile::Absent,
        Seen::Other(what) => FoundFile::Other(what.to_owned()),
        Seen::File { mode, owner, content } => {
            let is_the_users = user.is_none_or(|user| user == owner);
            let owner = described.filter(|_| is_the_users).unwrap_or(owner);
            FoundFile::File { content: Fingerprint::of_bytes(&content), mode, owner }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_by_their_length_whatever_is_in_a_file() {
        let output = b"file 640 1000 2000 7\nabsent\nabsent\nother\nfile 0 0 0 0\n";
        let file = |mode, owner, content: &[u8]| Seen::File { mode, owner, content: content.into() };
        let expected = vec![
            file(0o640, (1000, 2000), b"absent\n"),
            Seen::Absent,
            Seen::Other("no regular file"),
            file(0, (0, 0), b""),
        ];
        assert_eq!(frames(output), Some(expected));
        assert_eq!(frames(b"file 640 1000 2000 9\nshort"), None);
        assert_eq!(frames(b"sh: stat: not found\n"), None);
    }

    #[test]
    fn a_file_of_the_pods_user_counts_as_its_described_owners() {
        let seen = |owner| Seen::File { mode: 0o640, owner, content: Vec::new() };
        let owner = |found| match found {
            FoundFile::File { owner, .. } => owner,
            other => panic!("{other:?}"),
        };
        assert_eq!(owner(as_found(seen((70, 70)), Some((0, 0)), Some((70, 70)))), (0, 0));
        assert_eq!(owner(as_found(seen((9, 9)), Some((0, 0)), Some((70, 70)))), (9, 9));
    }
}
