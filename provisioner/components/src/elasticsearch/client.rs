//! The API of single nodes, over TLS as every client must.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use provisioner_core::name::Member;
use provisioner_core::stack::External;
use reqwest::Method;
use serde_json::Value;

use super::{HTTP, User};
use crate::certificates::Trust;
use crate::http::{self, Reply, Site};

/// One node, and how to log in.
pub(super) struct Node {
    /// As evidence has it.
    name: String,
    site: Site,
    logins: Logins,
}

enum Logins {
    /// Of the users, each with its password.
    Own([String; User::ALL.len()]),
    /// An external cluster has one account for all; user and password.
    One(Option<(String, String)>),
}

impl Node {
    pub(super) async fn of(access: &Access<'_>, member: &Member, limit: Duration) -> Result<Self, String> {
        let trust = Trust::authority(access).await?;
        let mut passwords: [String; User::ALL.len()] = Default::default();
        for (user, password) in User::ALL.into_iter().zip(&mut passwords) {
            *password = access.secret(user.secret()).await.map_err(|failure| failure.chain())?;
        }
        let site = Site::tls(access, member, HTTP, limit, trust).await?;
        Ok(Self { name: member.to_string(), site, logins: Logins::Own(passwords) })
    }

    pub(super) async fn external(access: &Access<'_>, external: &External, limit: Duration) -> Result<Self, String> {
        let trust = crate::external::trust(access, external).await?;
        let password = crate::external::password(access, external).await?;
        let site = Site::external(&external.host, external.port, limit, trust)?;
        Ok(Self { name: external.address(), site, logins: Logins::One(external.user.clone().zip(password)) })
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
        request = match (user, &self.logins) {
            (Some(user), Logins::Own(passwords)) => {
                let login = User::ALL.into_iter().zip(passwords).find(|(one, _)| *one == user);
                request.basic_auth(user.name(), login.map(|(_, password)| password))
            }
            (Some(_), Logins::One(Some((user, password)))) => request.basic_auth(user, Some(password)),
            (Some(_), Logins::One(None)) | (None, _) => request,
        };
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
        let what = format!("{method} {path} on {}", self.name);
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
