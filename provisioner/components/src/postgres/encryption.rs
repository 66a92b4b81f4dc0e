//! Sessions over TLS: the pair of key and certificate that every member has, and whom sessions believe.

use provisioner_core::component::Access;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::stack::{File, OnChange, Resource, ResourceId, Stack, Text};
use tokio_postgres::config::SslMode;

use super::{NAME, declare};
use crate::certificates::{self, AUTHORITY_FILE, Trust};
use crate::route;

const CERTIFICATE: &str = "/etc/postgresql/tls/server.crt";
const KEY: &str = "/etc/postgresql/tls/server.key";

/// One pair for all: clients reach a member by the route's names too, and a failover changes nothing.
pub(super) fn resources(manifest: &Manifest) -> Vec<Resource> {
    if !manifest.postgres.tls {
        return Vec::new();
    }
    let members = declare::members(manifest).into_iter().map(|member| member.to_string());
    let names = members.chain([route::READ_WRITE, route::READ_ONLY].map(str::to_owned)).collect();
    vec![certificates::authority(manifest), certificates::certificate(manifest, NAME, names)]
}

/// What a member needs: its pair, and the authority by which a replica knows its primary.
pub(super) fn files(reload: impl Fn() -> OnChange) -> [File; 3] {
    let secret = certificates::secret_of(NAME);
    let file = |path: &str, mode, part: &str| File {
        path: path.to_owned(),
        mode,
        // PostgreSQL takes a key that belongs to its user.
        owner: declare::POSTGRES,
        content: Text::new(Text::secret(&format!("{secret}.{part}"))),
        on_change: reload(),
    };
    [file(CERTIFICATE, 0o444, "crt"), file(KEY, 0o400, "key"), certificates::authority_file()]
}

/// What libpq goes by where a replica follows or copies its primary. Not in `primary_conninfo`: data outlives a change of
/// mind about encryption.
pub(super) fn client_env() -> [(String, String); 2] {
    [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", AUTHORITY_FILE)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Sessions go over TLS.
pub fn is_declared(stack: &Stack) -> bool {
    stack.resource(&ResourceId::Secret(certificates::secret_of(NAME))).is_some()
}

/// What a URL of the database says after its name: inside the stack, and where the stack's files are not.
pub(super) fn parameters(stack: &Stack) -> (String, String) {
    if is_declared(stack) {
        (format!("?sslmode=verify-full&sslrootcert={AUTHORITY_FILE}"), "?sslmode=require".to_owned())
    } else {
        (String::new(), String::new())
    }
}

/// How the provisioner's own sessions are made.
pub(crate) enum Encryption {
    Off,
    /// A member runs as it was before the manifest changed its mind: encrypted where it answers so.
    Changing(Trust),
    On(Trust),
}

impl Encryption {
    pub(crate) async fn of(access: &Access<'_>) -> Result<Self, String> {
        let wanted = is_declared(access.stack);
        let found = access.stack.members(NAME).filter_map(|workload| runs_encrypted(access, &workload.member));
        let mut differing = found.filter(|found| *found != wanted);
        match (wanted, differing.next()) {
            (false, None) => Ok(Self::Off),
            (true, None) => Ok(Self::On(Trust::authority(access).await?)),
            (_, Some(_)) => Ok(Self::Changing(Trust::authority(access).await?)),
        }
    }

    pub(super) fn mode(&self) -> Option<(SslMode, &Trust)> {
        match self {
            Self::Off => None,
            Self::Changing(trust) => Some((SslMode::Prefer, trust)),
            Self::On(trust) => Some((SslMode::Require, trust)),
        }
    }
}

/// As the snapshot shows the member; `None`: it is not there.
fn runs_encrypted(access: &Access<'_>, member: &Member) -> Option<bool> {
    access.observed.workload(member).map(|found| found.files.contains_key(CERTIFICATE))
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::stack::SecretSource;

    use super::*;
    use crate::postgres::Postgres;
    use crate::testing::manifest;

    #[test]
    fn one_certificate_names_every_way_to_the_database() {
        let mut manifest = manifest();
        assert!(resources(&manifest).is_empty());
        manifest.postgres.tls = true;
        let resources = resources(&manifest);
        let Some(Resource::Secret(pair)) = resources.last() else { panic!("expected a secret") };
        let SecretSource::Certificate { names, .. } = &pair.source else { panic!("expected a certificate") };
        assert_eq!(names[..5], ["postgres-1", "postgres-2", "postgres-rw", "postgres-ro", "localhost"]);
    }

    /// The authority's file lies in the stack and not on the operator's machine.
    #[test]
    fn a_url_names_the_authority_only_where_its_file_is() {
        let mut manifest = manifest();
        manifest.postgres.tls = true;
        let resources = Postgres.declare(&manifest).into_iter().chain(route::Route::default().declare(&manifest));
        let stack = Stack::new(manifest.name, resources);
        let variable = &Postgres.variables(&stack)[0];
        let expected = "@postgres-rw:5432/app?sslmode=verify-full&sslrootcert=/run/provisioner/ca.crt";
        assert!(variable.inside().masked().ends_with(expected));
        let outside = variable.outside(Some("127.0.0.1:49153".parse().unwrap()));
        assert!(outside.masked().ends_with("@127.0.0.1:49153/app?sslmode=require"));
    }
}
