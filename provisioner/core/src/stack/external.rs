//! Services that exist already: the stack uses them and has no member of them, so that no engine makes anything of them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Resource, Secret, Text};
use crate::manifest;
use crate::secret;

/// One of them, with markers and names in place of what is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct External {
    pub component: String,
    pub host: String,
    pub port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of the secret that is the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Name of the secret with the certificates by which it is believed; `None`: the connection is in clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// What else its clients must know.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub with: BTreeMap<String, String>,
}

impl External {
    pub fn new(component: &str, server: &manifest::External) -> Self {
        let manifest::External { host, port, user, password, ca } = server;
        Self {
            component: component.to_owned(),
            host: host.clone(),
            port: *port,
            user: user.clone(),
            password: password.is_some().then(|| format!("{component}-password")),
            ca: ca.is_some().then(|| format!("{component}-ca")),
            with: BTreeMap::new(),
        }
    }

    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.with.insert(key.to_owned(), value.into());
        self
    }

    /// What the engine keeps for it: the password, and whom to believe.
    pub fn secrets(&self, server: &manifest::External) -> Vec<Resource> {
        let secret = |name: &String, files: &manifest::HostFiles| {
            Resource::Secret(Secret { name: name.clone(), source: files.into() })
        };
        let ca = self.ca.as_ref().zip(server.ca.as_ref());
        let password = self.password.as_ref().zip(server.password.as_ref());
        password.into_iter().chain(ca).map(|(name, files)| secret(name, files)).collect()
    }

    /// The beginning of a URL up to its host.
    pub fn prefix(&self, scheme: &str) -> Text {
        let user = self.user.as_deref().map(secret::url_encoded).unwrap_or_default();
        let password = self.password.as_ref().map(|name| format!(":{}", Text::secret(&format!("{name}.url"))));
        let login = format!("{user}{}", password.unwrap_or_default());
        Text::new(if login.is_empty() { format!("{scheme}://") } else { format!("{scheme}://{login}@") })
    }

    /// `db.example.com:5432`, as URLs have it.
    pub fn address(&self) -> String {
        format!("{}:{}", url_host(&self.host), self.port)
    }
}

/// An address of IPv6 stands in brackets (RFC 3986, 3.2.2).
pub fn url_host(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(host: &str, user: Option<&str>) -> External {
        External {
            component: "redis".to_owned(),
            host: host.to_owned(),
            port: 6379,
            user: user.map(str::to_owned),
            password: Some("redis-password".to_owned()),
            ca: None,
            with: BTreeMap::new(),
        }
    }

    #[test]
    fn a_url_has_the_login_escaped_and_the_password_as_a_marker() {
        let shown = |external: External| external.prefix("redis").masked().to_owned() + &external.address();
        assert_eq!(
            shown(external("cache.example.com", Some("a@b"))),
            "redis://a%40b:@{secret:redis-password.url}@cache.example.com:6379"
        );
        assert_eq!(shown(external("fd00::1", None)), "redis://:@{secret:redis-password.url}@[fd00::1]:6379");
        let stranger = External { password: None, ..external("cache", None) };
        assert_eq!(shown(stranger), "redis://cache:6379");
    }
}
