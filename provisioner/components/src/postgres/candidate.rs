//! What the manifest says of single members, read back from their own configuration: procedures see the stack alone.

use provisioner_core::name::Member;
use provisioner_core::stack::{Stack, Workload};

use super::declare;
use super::failover::Attributes;

pub(super) fn attributes(stack: &Stack, member: &Member) -> Attributes {
    let Some(workload) = stack.workload(member) else { return Attributes::default() };
    Attributes {
        priority: stated(workload, "priority").and_then(|text| text.parse().ok()).unwrap_or_default(),
        region: stated(workload, "region").map(str::to_owned),
        nofailover: stated(workload, "nofailover") == Some("true"),
    }
}

/// The value of `provisioner.NAME` in the member's configuration.
pub(super) fn stated<'a>(workload: &'a Workload, name: &str) -> Option<&'a str> {
    let path = declare::settings_path();
    let file = workload.files.iter().find(|file| file.path == path)?;
    let begin = format!("provisioner.{name} = '");
    file.content.masked().lines().find_map(|line| line.strip_prefix(begin.as_str()))?.strip_suffix('\'')
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::manifest::PostgresMember;

    use super::*;
    use crate::postgres::{NAME, Postgres};
    use crate::testing::manifest;

    #[test]
    fn what_the_manifest_says_of_a_member_comes_back_from_its_files() {
        let mut manifest = manifest();
        let second = Member::nth(NAME, 2);
        let said = PostgresMember { region: Some("eu-2".to_owned()), priority: 10, nofailover: true };
        manifest.postgres.members.insert(second.clone(), said);
        let stack = Stack::new(manifest.name.clone(), Postgres.declare(&manifest));
        let expected = Attributes { priority: 10, region: Some("eu-2".to_owned()), nofailover: true };
        assert_eq!(attributes(&stack, &second), expected);
        assert_eq!(attributes(&stack, &Member::nth(NAME, 1)), Attributes::default());
    }
}
