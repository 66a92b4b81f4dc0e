//! What should exist: one workload, one volume and one certificate a node, all alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::context;
use provisioner_core::manifest::{Elasticsearch as Section, Environment, Manifest};
use provisioner_core::name::Member;
use provisioner_core::stack::{
    Expose, File, ImageId, ImageInput, Limits, Mount, OnChange, Port, Probe, Probes, Recipe, Resource, Restart, Secret,
    Stop, Text, Volume, Workload,
};

use super::{HTTP, NAME, TRANSPORT, User};
use crate::template::render;
use crate::{app, certificates, monitoring, recipe};

/// The newest one of its makers' builds for tests that Maven's central repository has.
const ARCHIVE: &str = "https://repo1.maven.org/maven2/org/elasticsearch/distribution/integ-test-zip/elasticsearch/8.19.21/elasticsearch-8.19.21.zip";
const ARCHIVE_SHA256: &str = "215d5f3dbf0609a149f6218a9e47b6ae2df34ebbff3c5754e35f15a5e5393c8a";
const ARCHIVE_BYTES: u64 = 106_871_955;
const CONFIG: &str = "/usr/share/elasticsearch/config";
const DATA: &str = "/usr/share/elasticsearch/data";
pub(super) const SCRIPT: &str = "/usr/local/lib/provisioner/elasticsearch/node";
const PASSWORDS: &str = "/run/provisioner/elasticsearch/passwords";
const PASSWORD_LENGTH: usize = 24;
/// User and group of the recipe and of the makers' own image.
const ELASTICSEARCH: (u32, u32) = (1000, 0);
const MIB: u64 = 1 << 20;

/// Files that Elasticsearch's bootstrap check wants to be able to open.
pub const OPEN_FILES_MIN: u64 = 65_535;
/// The same for memory maps, where it maps its files (`vm.max_map_count`).
pub const MAPS_MIN: u64 = 262_144;

/// The limits of a developer's machine are taken as they are; elsewhere the cluster gets what it asks for or is refused.
pub fn adapts(environment: Environment) -> bool {
    environment.is_disposable()
}

/// Nodes map their files into memory, which needs a host that allows enough maps.
pub fn maps_files(manifest: &Manifest) -> bool {
    let section = manifest.elasticsearch.as_ref().filter(|section| section.external.is_none());
    section.is_some_and(|section| settings(manifest, section).get(ALLOW_MMAP).is_none_or(|value| value != "false"))
}

const ALLOW_MMAP: &str = "node.store.allow_mmap";

pub(super) fn declare(manifest: &Manifest, section: &Section) -> Vec<Resource> {
    let own = || Recipe {
        id: ImageId(NAME.to_owned()),
        base: ImageId(crate::BASE.to_owned()),
        dockerfile: include_str!("../../recipes/elasticsearch/Dockerfile").to_owned(),
        inputs: vec![
            ImageInput::Download {
                path: "elasticsearch.zip".to_owned(),
                mode: 0o644,
                url: ARCHIVE.to_owned(),
                sha256: ARCHIVE_SHA256.to_owned(),
                size_bytes: ARCHIVE_BYTES,
            },
            ImageInput::Inline {
                path: "nofile.c".to_owned(),
                mode: 0o644,
                content: include_str!("../../recipes/elasticsearch/nofile.c").to_owned(),
            },
        ],
    };
    let mut resources = recipe(NAME, section.service.image.as_deref(), own);
    resources.extend(User::ALL.map(|user| Resource::Secret(Secret::password(user.secret(), PASSWORD_LENGTH))));
    resources.push(certificates::authority(manifest));
    let nodes = members(section);
    for node in &nodes {
        let names = vec![node.to_string(), NAME.to_owned()];
        resources.push(certificates::certificate(manifest, node.as_str(), names));
        resources.push(Resource::Volume(Volume {
            name: volume(node),
            component: NAME.to_owned(),
            size_bytes: section.service.disk_bytes,
        }));
        resources.push(Resource::Workload(Arc::new(workload(manifest, section, node, &nodes))));
    }
    resources
}

fn members(section: &Section) -> Vec<Member> {
    (1..=section.nodes).map(|ordinal| Member::nth(NAME, ordinal)).collect()
}

pub(super) fn volume(member: &Member) -> String {
    format!("{member}-data")
}

fn workload(manifest: &Manifest, section: &Section, member: &Member, nodes: &[Member]) -> Workload {
    let service = &section.service;
    let env = adapts(manifest.environment).then(|| {
        // The JVM that only reads options and starts the server's: as short as it lives, compiling well costs more.
        let launcher = "-XX:TieredStopAtLevel=1".to_owned();
        [("OPEN_FILES".to_owned(), "adapt".to_owned()), ("CLI_JAVA_OPTS".to_owned(), launcher)]
    });
    Workload {
        member: member.clone(),
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: script(&[]),
        env: env.into_iter().flatten().collect(),
        secret_env: BTreeMap::new(),
        files: files(manifest, section, member, nodes),
        mounts: vec![Mount { volume: volume(member), path: DATA.to_owned() }],
        names: vec![NAME.to_owned()],
        ports: vec![
            Port::new("https", HTTP, Expose::Checks).reached_by(&[app::NAME, monitoring::NAME]),
            Port::new("transport", TRANSPORT, Expose::Nobody).reached_by(&[NAME]),
        ],
        user: Some(ELASTICSEARCH),
        scratch: ["/tmp", "/usr/share/elasticsearch/logs"].map(str::to_owned).to_vec(),
        limits: Limits {
            memory_bytes: Some(service.memory_bytes),
            cpu_millis: Some(service.cpu_millis),
            shm_bytes: None,
        },
        // Requests under way are answered and the shards closed before it ends.
        stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 60 },
        restart: Restart::UnlessStopped,
        // It answers nobody without a login; it listens once it has started.
        probes: Some(Probes::ready(Probe::Tcp { port: HTTP })),
        after: Vec::new(),
    }
}

/// The command line of the node's own script.
pub(super) fn script(words: &[&str]) -> Vec<String> {
    ["/bin/sh", SCRIPT].iter().chain(words).map(|word| (*word).to_owned()).collect()
}

fn files(manifest: &Manifest, section: &Section, member: &Member, nodes: &[Member]) -> Vec<File> {
    let configuration = context! {
        cluster => manifest.name.to_string(),
        node => member.to_string(),
        nodes => nodes.iter().map(Member::to_string).collect::<Vec<_>>(),
        http_port => HTTP,
        transport_port => TRANSPORT,
        settings => settings(manifest, section),
    };
    let options = context! { heap_mib => section.heap_bytes / MIB, quick => adapts(manifest.environment) };
    let passwords: String =
        User::ALL.iter().map(|user| format!("{} {}\n", user.name(), Text::secret(user.secret()))).collect();
    let plain = |path: String, content: String, on_change| File {
        path,
        mode: 0o644,
        owner: (0, 0),
        content: Text::new(content),
        on_change,
    };
    let of_node = |path: String, mode, content: String, on_change: &OnChange| File {
        path,
        mode,
        owner: ELASTICSEARCH,
        content: Text::new(content),
        on_change: on_change.clone(),
    };
    let config = |name: &str| format!("{CONFIG}/{name}");
    let yml =
        render("elasticsearch.yml.j2", include_str!("../../recipes/elasticsearch/elasticsearch.yml.j2"), configuration);
    let jvm = render("jvm.options.j2", include_str!("../../recipes/elasticsearch/jvm.options.j2"), options);
    let log4j = include_str!("../../recipes/elasticsearch/log4j2.properties").to_owned();
    let roles = include_str!("../../recipes/elasticsearch/roles.yml").to_owned();
    let users_roles = include_str!("../../recipes/elasticsearch/users_roles").to_owned();
    let secret = certificates::secret_of(member.as_str());
    let authority = Text::secret(&format!("{}.crt", certificates::AUTHORITY));
    // A node looks at these every 5 s and takes over what has another time or length. Files are put in with one and the
    // same time, and a new certificate is as long as the old one, so the script touches them. The signal means nothing.
    let watched = OnChange::Reload { check: script(&["touch"]), signal: "SIGURG".to_owned() };
    vec![
        plain(config("elasticsearch.yml"), yml, OnChange::Restart),
        plain(config("jvm.options.d/provisioner.options"), jvm, OnChange::Restart),
        plain(config("log4j2.properties"), log4j, OnChange::Restart),
        of_node(config("roles.yml"), 0o644, roles, &watched),
        of_node(config("users_roles"), 0o644, users_roles, &watched),
        of_node(config("tls/node.key"), 0o400, Text::secret(&format!("{secret}.key")), &watched),
        of_node(config("tls/node.crt"), 0o444, Text::secret(&format!("{secret}.crt")), &watched),
        of_node(config("tls/ca.crt"), 0o444, authority, &watched),
        of_node(PASSWORDS.to_owned(), 0o400, passwords, &OnChange::Restart),
        plain(SCRIPT.to_owned(), include_str!("../../recipes/elasticsearch/node").to_owned(), OnChange::Restart),
    ]
}

/// The provisioner's own lines that a manifest may overrule, and the manifest's. A name twice would stop the node.
fn settings(manifest: &Manifest, section: &Section) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    if adapts(manifest.environment) {
        // A mapped file counts against a limit that only the host can raise, and a full developer's disk in percent
        // says nothing about what is left.
        let own = [
            (ALLOW_MMAP, "false"),
            ("cluster.routing.allocation.disk.watermark.low", "1gb"),
            ("cluster.routing.allocation.disk.watermark.high", "512mb"),
            ("cluster.routing.allocation.disk.watermark.flood_stage", "256mb"),
        ];
        settings.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    settings.extend(section.settings.clone());
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_search;

    fn text(manifest: &Manifest, name: &str) -> String {
        let section = manifest.elasticsearch.as_ref().unwrap();
        let nodes = members(section);
        let files = workload(manifest, section, &nodes[1], &nodes).files;
        files.iter().find(|file| file.path.ends_with(name)).unwrap().content.masked().to_owned()
    }

    #[test]
    fn the_configuration_of_a_node() {
        let mut manifest = with_search("");
        let settings = &mut manifest.elasticsearch.as_mut().unwrap().settings;
        settings.insert("indices.query.bool.max_clause_count".to_owned(), "2048".to_owned());
        insta::assert_snapshot!("elasticsearch.yml", text(&manifest, "/elasticsearch.yml"));
        insta::assert_snapshot!("jvm.options", text(&manifest, "/provisioner.options"));
        manifest.environment = Environment::Production;
        insta::assert_snapshot!("elasticsearch.production.yml", text(&manifest, "/elasticsearch.yml"));
        insta::assert_snapshot!("jvm.production.options", text(&manifest, "/provisioner.options"));
    }

    #[test]
    fn no_file_tells_a_node_to_found_a_cluster() {
        for name in ["/elasticsearch.yml", "/provisioner.options"] {
            let text = text(&with_search(""), name);
            let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
            assert!(!lines.concat().contains("initial_master_nodes"), "{name}: {text}");
        }
    }

    #[test]
    fn a_line_of_the_manifest_takes_the_place_of_ours() {
        let manifest = with_search("  settings:\n    node.store.allow_mmap: true\n");
        let text = text(&manifest, "/elasticsearch.yml");
        assert_eq!(text.matches(ALLOW_MMAP).count(), 1, "{text}");
        assert!(maps_files(&manifest));
        assert!(!maps_files(&with_search("")));
    }

    #[test]
    fn limits_are_taken_as_they_are_on_dev_and_ci_alone() {
        for (environment, is_adapted) in [
            (Environment::Dev, true),
            (Environment::Ci, true),
            (Environment::Staging, false),
            (Environment::Production, false),
        ] {
            let mut manifest = with_search("");
            manifest.environment = environment;
            let section = manifest.elasticsearch.as_ref().unwrap();
            let nodes = members(section);
            let env = workload(&manifest, section, &nodes[0], &nodes).env;
            assert_eq!(env.contains_key("OPEN_FILES"), is_adapted, "{environment:?}");
            assert_eq!(maps_files(&manifest), !is_adapted, "{environment:?}");
        }
    }

    #[test]
    fn passwords_and_keys_are_named_and_closed() {
        let manifest = with_search("");
        let section = manifest.elasticsearch.as_ref().unwrap();
        let nodes = members(section);
        let workload = workload(&manifest, section, &nodes[0], &nodes);
        let secrets: std::collections::BTreeSet<_> = workload.secrets().collect();
        assert_eq!(
            secrets.into_iter().collect::<Vec<_>>(),
            ["ca", "elasticsearch-admin", "elasticsearch-app", "elasticsearch-monitor", "tls-elasticsearch-1"]
        );
        let open = workload.files.iter().filter(|file| file.mode & 0o077 != 0);
        for file in open {
            let text = file.content.masked();
            assert!(!text.contains("elasticsearch-") || !text.contains("@{secret:elasticsearch-"), "{}", file.path);
            assert!(!text.contains(".key}"), "{}", file.path);
        }
    }
}
