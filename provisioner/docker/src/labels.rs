//! What the engine remembers of a stack: names and labels. Labels are read tolerantly, since older provisioners and
//! people's own hands have written them too.

use std::collections::{BTreeMap, HashMap};

use provisioner_core::name::{Member, StackName};
use provisioner_core::stack::Fingerprint;

pub(crate) const STACK: &str = "provisioner.stack";
pub(crate) const KIND: &str = "provisioner.kind";
pub(crate) const COMPONENT: &str = "provisioner.component";
pub(crate) const MEMBER: &str = "provisioner.member";
pub(crate) const VOLUME: &str = "provisioner.volume";
pub(crate) const SPEC: &str = "provisioner.spec";
/// Fingerprint of what the engine was told.
pub(crate) const PROCESS: &str = "provisioner.process";
pub(crate) const FILES: &str = "provisioner.files";
pub(crate) const RESTART: &str = "provisioner.restart";
/// Under which names it is found on the stack's network, separated by spaces.
pub(crate) const NAMES: &str = "provisioner.names";

pub(crate) type Labels = HashMap<String, String>;
pub(crate) type Filters = HashMap<String, Vec<String>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Workload,
    Job,
    Volume,
    Record,
    Secrets,
    Network,
    /// A container that is never started: files of a volume are read and written through it.
    Accessor,
}

impl Kind {
    const ALL: [(&'static str, Self); 7] = [
        ("workload", Self::Workload),
        ("job", Self::Job),
        ("volume", Self::Volume),
        ("record", Self::Record),
        ("secrets", Self::Secrets),
        ("network", Self::Network),
        ("accessor", Self::Accessor),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    pub(crate) fn of(labels: &Labels) -> Option<Self> {
        let word = labels.get(KIND)?;
        Self::ALL.iter().find(|(known, _)| known == word).map(|(_, kind)| *kind)
    }
}

/// How the things of one stack are called in the engine.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) stack: StackName,
}

impl Names {
    pub(crate) fn network(&self) -> String {
        self.stack.to_string()
    }

    pub(crate) fn container(&self, member: &Member) -> String {
        format!("{}-{member}", self.stack)
    }

    pub(crate) fn job(&self, name: &str) -> String {
        format!("{}-job-{name}", self.stack)
    }

    pub(crate) fn volume(&self, name: &str) -> String {
        format!("{}-{name}", self.stack)
    }

    pub(crate) fn secrets_volume(&self) -> String {
        self.volume("secrets")
    }

    pub(crate) fn accessor(&self) -> String {
        self.volume("secrets-accessor")
    }

    pub(crate) fn record(&self, key: &str, version: u64) -> String {
        format!("{}-record-{key}-{version}", self.stack)
    }

    /// The member whose place a container of this name takes.
    pub(crate) fn member(&self, container: &str) -> Option<Member> {
        let rest = container.trim_start_matches('/').strip_prefix(self.stack.as_str())?;
        rest.strip_prefix('-').filter(|member| !member.is_empty()).map(Member::named)
    }

    pub(crate) fn labels(&self, kind: Kind) -> Labels {
        let pairs = [(STACK, self.stack.as_str()), (KIND, kind.word())];
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    pub(crate) fn own(&self, labels: &Labels) -> bool {
        labels.get(STACK).is_some_and(|stack| stack == self.stack.as_str())
    }

    /// The other stack that such labels belong to. A container that somebody ran from an image built here inherits its
    /// empty label and belongs to none.
    pub(crate) fn other_stack<'a>(&self, labels: &'a Labels) -> Option<&'a str> {
        labels.get(STACK).map(String::as_str).filter(|stack| !stack.is_empty() && *stack != self.stack.as_str())
    }

    /// Lists only what carries this stack's label.
    pub(crate) fn filter(&self) -> Filters {
        HashMap::from([("label".to_owned(), vec![format!("{STACK}={}", self.stack)])])
    }
}

pub(crate) fn write_files(files: &BTreeMap<String, Fingerprint>) -> String {
    serde_json::to_string(files).unwrap_or_default()
}

pub(crate) fn read_files(labels: &Labels) -> BTreeMap<String, Fingerprint> {
    labels.get(FILES).and_then(|label| serde_json::from_str(label).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { stack: StackName::new("dev").unwrap() }
    }

    #[test]
    fn kinds_round_trip_through_labels() {
        for (_, kind) in Kind::ALL {
            assert_eq!(Kind::of(&names().labels(kind)), Some(kind));
        }
        assert_eq!(Kind::of(&Labels::from([(KIND.to_owned(), "novelty".to_owned())])), None);
    }

    #[test]
    fn file_fingerprints_round_trip_and_a_broken_label_reads_as_none() {
        let files = BTreeMap::from([("/etc/a \"b\".conf".to_owned(), Fingerprint::of_bytes(b"x"))]);
        let labels = Labels::from([(FILES.to_owned(), write_files(&files))]);
        assert_eq!(read_files(&labels), files);
        assert!(read_files(&Labels::from([(FILES.to_owned(), "{".to_owned())])).is_empty());
    }

    #[test]
    fn only_whole_names_are_members_of_the_stack() {
        assert_eq!(names().member("/dev-redis-1"), Some(Member::named("redis-1")));
        assert_eq!(names().member("/develop-redis-1"), None);
        assert_eq!(names().member("/dev-"), None);
        assert_eq!(names().member("/dev"), None);
    }

    #[test]
    fn labels_tell_whose_a_thing_is() {
        let other = Labels::from([(STACK.to_owned(), "ci".to_owned())]);
        assert!(names().own(&names().labels(Kind::Volume)));
        assert_eq!(names().other_stack(&other), Some("ci"));
        assert_eq!(names().other_stack(&Labels::new()), None);
    }
}
