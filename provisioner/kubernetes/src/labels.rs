//! What the engine remembers of a stack: names, labels to select by, annotations to read. The words are Docker's, under
//! a prefix that Kubernetes asks for. They are read tolerantly, since people's own hands have written them too.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use provisioner_core::name::{Member, StackName};
use provisioner_core::stack::Fingerprint;

pub(crate) const STACK: &str = "provisioner.dev/stack";
pub(crate) const KIND: &str = "provisioner.dev/kind";
pub(crate) const COMPONENT: &str = "provisioner.dev/component";
pub(crate) const MEMBER: &str = "provisioner.dev/member";
/// What a member is one of several of.
pub(crate) const WORKLOAD: &str = "provisioner.dev/workload";
/// On a namespace that stands for the stack's network.
pub(crate) const NETWORK: &str = "provisioner.dev/network";
/// On a namespace whose network was removed: it goes with the last thing of the stack.
pub(crate) const LEAVING: &str = "provisioner.dev/leaving";
/// On a namespace that was made for the stack and is removed with it.
pub(crate) const MADE: &str = "provisioner.dev/made";

pub(crate) const VOLUME: &str = "provisioner.dev/volume";
pub(crate) const SPEC: &str = "provisioner.dev/spec";
/// Fingerprints of what a member's description was made into.
pub(crate) const PROCESS: &str = "provisioner.dev/process";
pub(crate) const AROUND: &str = "provisioner.dev/around";
/// What the server counted of them when the latter was noted.
pub(crate) const GUARDS: &str = "provisioner.dev/guards";
pub(crate) const FILES: &str = "provisioner.dev/files";
/// Another one whenever the member is made anew.
pub(crate) const INSTANCE: &str = "provisioner.dev/instance";
pub(crate) const RESTART: &str = "provisioner.dev/restart";
/// Of the stop as described; a pod has a second at least.
pub(crate) const GRACE: &str = "provisioner.dev/grace";
pub(crate) const PORTS: &str = "provisioner.dev/ports";
/// The reference that the stack's description gives; pods run the one that the cluster knows it by.
pub(crate) const IMAGE: &str = "provisioner.dev/image";
pub(crate) const RECORD: &str = "provisioner.dev/record";
pub(crate) const NOTE: &str = "provisioner.dev/note";

/// The field manager of everything that is applied here.
pub(crate) const MANAGER: &str = "provisioner";

pub(crate) type Labels = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Namespace,
    Workload,
    Job,
    Volume,
    Record,
    Secret,
    /// The files of one member or job.
    Files,
    /// A pod that reads and writes the volume of a member that is down.
    Helper,
}

impl Kind {
    const ALL: [(&'static str, Self); 8] = [
        ("namespace", Self::Namespace),
        ("workload", Self::Workload),
        ("job", Self::Job),
        ("volume", Self::Volume),
        ("record", Self::Record),
        ("secret", Self::Secret),
        ("files", Self::Files),
        ("helper", Self::Helper),
    ];

    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Option<Self> {
        let word = label(meta, KIND)?;
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind)
    }
}

/// How the things of one stack are called in the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) stack: StackName,
    pub(crate) namespace: String,
    /// Somebody named the namespace; else it is the stack's own.
    pub(crate) is_given: bool,
}

impl Names {
    pub(crate) fn files(member: &Member) -> String {
        format!("files-{member}")
    }

    /// The Service that leads to a member from outside the cluster.
    pub(crate) fn public(member: &Member) -> String {
        format!("{member}-public")
    }

    pub(crate) fn job(name: &str) -> String {
        format!("job-{name}")
    }

    pub(crate) fn record(key: &str) -> String {
        format!("record-{key}")
    }

    pub(crate) fn secret(name: &str) -> String {
        format!("secret-{name}")
    }

    pub(crate) fn helper(member: &Member) -> String {
        format!("helper-{member}")
    }

    pub(crate) fn labels(&self, kind: Kind) -> Labels {
        let pairs = [(STACK, self.stack.as_str()), (KIND, kind.word())];
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    pub(crate) fn own(&self, meta: &ObjectMeta) -> bool {
        label(meta, STACK) == Some(self.stack.as_str())
    }

    /// It was made here, for this stack, as this kind.
    pub(crate) fn is(&self, meta: &ObjectMeta, kind: Kind) -> bool {
        self.own(meta) && Kind::of(meta) == Some(kind)
    }

    /// Lists only what carries this stack's label and kind.
    pub(crate) fn selector(&self, kind: Kind) -> String {
        format!("{STACK}={},{KIND}={}", self.stack, kind.word())
    }

    pub(crate) fn member_selector(&self, member: &Member) -> String {
        format!("{},{MEMBER}={member}", self.selector(Kind::Workload))
    }
}

pub(crate) fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The annotation of a Lease that holds a word of a record.
pub(crate) fn lease_word(key: &str) -> String {
    format!("provisioner.dev/record-{key}")
}

/// The label by which pods are found under a name besides their member's own.
pub(crate) fn name_label(name: &str) -> String {
    format!("name.provisioner.dev/{name}")
}

/// The name of such a label.
pub(crate) fn shared_name(key: &str) -> Option<&str> {
    key.strip_prefix("name.provisioner.dev/")
}

pub(crate) fn write_files(files: &BTreeMap<String, Fingerprint>) -> String {
    serde_json::to_string(files).unwrap_or_default()
}

pub(crate) fn read_files(meta: &ObjectMeta) -> BTreeMap<String, Fingerprint> {
    annotation(meta, FILES).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

pub(crate) fn nonce() -> String {
    format!("{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { stack: StackName::new("dev").unwrap(), namespace: "shop".to_owned(), is_given: true }
    }

    fn labelled(labels: Labels) -> ObjectMeta {
        ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }
    }

    #[test]
    fn kinds_round_trip_through_labels() {
        for (_, kind) in Kind::ALL {
            assert_eq!(Kind::of(&labelled(names().labels(kind))), Some(kind));
        }
        assert_eq!(Kind::of(&labelled(Labels::from([(KIND.to_owned(), "novelty".to_owned())]))), None);
    }

    #[test]
    fn file_fingerprints_round_trip_and_a_broken_annotation_reads_as_none() {
        let files = BTreeMap::from([("/etc/a \"b\".conf".to_owned(), Fingerprint::of_bytes(b"x"))]);
        let annotated = |text: String| ObjectMeta {
            annotations: Some(BTreeMap::from([(FILES.to_owned(), text)])),
            ..ObjectMeta::default()
        };
        assert_eq!(read_files(&annotated(write_files(&files))), files);
        assert!(read_files(&annotated("{".to_owned())).is_empty());
    }

    #[test]
    fn labels_tell_whose_a_thing_is() {
        let other = Labels::from([(STACK.to_owned(), "ci".to_owned()), (KIND.to_owned(), "volume".to_owned())]);
        assert!(names().is(&labelled(names().labels(Kind::Volume)), Kind::Volume));
        assert!(!names().is(&labelled(other), Kind::Volume));
    }
}
