//! RabbitMQ's management API, as the administrator.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use provisioner_core::stack::External;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{MANAGEMENT, NAME, User, external, member};
use crate::http::{self, Reply, Site};

pub(super) struct Management {
    site: Site,
    user: String,
    password: String,
}

impl Management {
    pub(super) async fn of(access: &Access<'_>, limit: Duration) -> Result<Self, String> {
        if let Some(server) = access.stack.external(NAME) {
            return Self::external(access, server, limit).await;
        }
        let password = access.secret(User::Admin.secret()).await.map_err(|failure| failure.chain())?;
        let site = Site::of(access, &member(), MANAGEMENT, limit).await?;
        Ok(Self { site, user: User::Admin.name().to_owned(), password })
    }

    async fn external(access: &Access<'_>, server: &External, limit: Duration) -> Result<Self, String> {
        let (host, port) = external::management(server).ok_or("the manifest names no management API")?;
        let trust = crate::external::trust(access, server).await?;
        let password = crate::external::password(access, server).await?.unwrap_or_default();
        let site = Site::external(host, port, limit, trust)?;
        Ok(Self { site, user: server.user.clone().unwrap_or_default(), password })
    }

    /// At the snapshot's address: for reads that belong to it.
    pub(super) async fn published(access: &Access<'_>, limit: Duration) -> Result<Self, String> {
        let address = access.published(&member(), MANAGEMENT).map_err(|error| error.to_string())?;
        let password = access.secret(User::Admin.secret()).await.map_err(|failure| failure.chain())?;
        Ok(Self { site: Site::at(address, limit)?, user: User::Admin.name().to_owned(), password })
    }

    /// An answer of whatever status.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, String> {
        let request = self.site.request(method, path).basic_auth(&self.user, Some(&self.password));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        http::reply(request).await
    }

    /// Sends and insists on one of the statuses by which the API says that it is done.
    pub(super) async fn apply(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(), String> {
        let what = format!("{method} {path}");
        let reply = self.send(method, path, body).await.map_err(|error| format!("{what}: {error}"))?;
        match reply.status {
            200..=299 => Ok(()),
            status => Err(format!("{what}: {status} {}, expected 2xx", reply.text().trim())),
        }
    }

    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Broken> {
        let what = format!("GET {path}");
        let reply = self.send(Method::GET, path, None).await;
        let reply = reply.map_err(|error| Broken::fail(format!("{what}: {error}")))?.expect(200, &what)?;
        serde_json::from_slice(&reply.body)
            .map_err(|error| Broken::unknown(format!("{what}: read the answer: {error}")))
    }

    /// Without a login.
    pub(super) async fn stranger(&self, path: &str) -> Result<Reply, String> {
        self.site.get(path).await
    }
}
