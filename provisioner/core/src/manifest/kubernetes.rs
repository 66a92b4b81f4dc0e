//! The section that makes Kubernetes the stack's engine.

use super::read::Table;
use super::sections::is_host;
use super::{AccessMode, Entrance, Kubernetes};

const LABEL: &str = "1 to 63 lower-case letters, digits or hyphens, starting and ending with a letter or digit";
const NAME: &str = "a name of lower-case letters, digits, hyphens and dots";
const REGISTRY: &str =
    "a registry's host, with its port and a path where it has them, such as registry.example.com/shop";

pub(super) fn kubernetes(mut table: Table<'_>) -> Kubernetes {
    let kubernetes = Kubernetes {
        context: table.text("context", "the name of a context of the kubeconfig"),
        namespace: named(&mut table, "namespace", LABEL, is_label),
        storage_class: named(&mut table, "storage_class", NAME, is_name),
        access_mode: table.choice("access_mode", &AccessMode::ALL).unwrap_or_default(),
        service: table.choice("service", &Entrance::ALL).unwrap_or(Entrance::ClusterIp),
        registry: named(&mut table, "registry", REGISTRY, is_registry),
        pull_secret: secret(&mut table, "pull_secret"),
    };
    table.finish();
    kubernetes
}

/// Names a Secret of the stack's namespace.
pub(super) fn secret(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    named(table, key, NAME, is_name)
}

fn named(table: &mut Table<'_>, key: &'static str, expected: &str, is_right: fn(&str) -> bool) -> Option<String> {
    table.value(key, expected, |value| value.as_str().filter(|text| is_right(text)).map(str::to_owned))
}

impl Kubernetes {
    /// A name that the cluster can give to a namespace (RFC 1123).
    pub fn is_namespace(text: &str) -> bool {
        is_label(text)
    }

    /// A registry without a scheme, as references to its images begin.
    pub fn is_registry(text: &str) -> bool {
        is_registry(text)
    }
}

fn is_label(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() < 64 && text.chars().all(is_plain) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_name(text: &str) -> bool {
    text.len() < 254 && text.split('.').all(is_label)
}

fn is_registry(text: &str) -> bool {
    let mut parts = text.split('/');
    let host = parts.next().unwrap_or_default();
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_part = |part: &str| {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_plain)
    };
    is_host(name) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) && parts.all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_a_host_with_a_port_and_a_path() {
        for right in ["registry.example.com", "127.0.0.1:5000", "10.0.0.5:5000/shop", "ghcr.io/team/shop-1"] {
            assert!(is_registry(right), "{right}");
        }
        for wrong in ["", "https://ghcr.io", "ghcr.io/", "ghcr.io/Team", "host:0", "host:x", "host:99999", "a b", "/x"]
        {
            assert!(!is_registry(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_namespace_is_a_dns_label_and_other_names_may_have_dots() {
        assert!(is_label("shop-1") && is_label("1") && is_name("fast.ssd") && is_name("regcred"));
        for wrong in ["", "-a", "a-", "A", "a_b", "a.b"] {
            assert!(!is_label(wrong), "{wrong}");
        }
        assert!(!is_name("a..b") && !is_name(".a") && !is_label(&"a".repeat(64)));
    }
}
