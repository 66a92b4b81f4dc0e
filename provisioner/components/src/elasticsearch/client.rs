//! The API of single nodes, over TLS as every client must.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use provisioner_core::name::Member;
use reqwest::Method;
use serde_json::Value;

use super::{HTTP, User};
use crate::certificates::Trust;
use crate::http::{self, Reply, Site};

/// One node, and the passwords of the users.
pub(super) struct Node {
    pub(super) member: Member,
    site: Site,
    passwords: [String; User::ALL.len()],
}

impl Node {
    pub(super) async fn of(access: &Access<'_>, member: &Member, limit: Duration) -> Result<Self, String> {
        let trust = Trust::authority(access).await?;
        let mut passwords: [String; User::ALL.len()] = Default::default();
        for (user, password) in User::ALL.into_iter().zip(&mut passwords) {
            *password = access.secret(user.secret()).await.map_err(|failure| failure.chain())?;
        }
        let site = Site::tls(access, member, HTTP, limit, trust).await?;
        Ok(Self { member: member.clone(), site, passwords })
    }

    /// An answer of whatever status; without a user as a stranger.
    pub(super) async fn send(
        &self,
        user: Option<User>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, String> {
        let mut request = self.site.request(method, path);
        if let Some(user) = user {
            let login = User::ALL.into_iter().zip(&self.passwords).find(|(one, _)| *one == user);
            request = request.basic_auth(user.name(), login.map(|(_, password)| password));
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        http::reply(request).await
    }

    /// What the administrator reads.
    pub(super) async fn read(&self, path: &str) -> Result<Value, Broken> {
        self.call(Method::GET, path, None).await
    }

    /// What the administrator asks for, done.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Broken> {
        let what = format!("{method} {path} on {}", self.member);
        let reply = self.send(Some(User::Admin), method, path, body).await;
        let reply = reply.map_err(|error| Broken::fail(format!("{what}: {error}")))?;
        match reply.status {
            200..=299 => reply.json(),
            _ => Err(reply.expect(200, &what).err().unwrap_or_else(|| Broken::unknown(what))),
        }
    }
}

/// The text under a key; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
