//! Where uploaded pictures go: to a server that takes them over HTTP, or into a directory that is served below `/media/`.
//! Either way a picture is named by its content and appears whole: the same one twice is one file.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use axum::body::Bytes;
use reqwest::{
    Method, Response, Url,
    header::{AUTHORIZATION, HeaderValue},
    redirect,
};
use tokio::{fs, io::AsyncWriteExt};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    config::Serve,
    traces,
    trust::Trust,
    web::{as_folder, causes, take_credentials},
};

const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// NGINX waits 30 s for a backend, and the largest picture has 5 MiB.
const PUT_WITHIN: Duration = Duration::from_secs(10);
/// Less than any server keeps a connection that is not used.
const IDLE: Duration = Duration::from_secs(20);

pub(crate) enum Media {
    Folder(PathBuf),
    Server(Server),
}

pub(crate) struct Server {
    base: Url,
    authorization: Option<HeaderValue>,
    http: reqwest::Client,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MediaError {
    #[error("write {path} into {}: {source}", folder.display())]
    Folder { path: String, folder: PathBuf, source: std::io::Error },
    #[error("{what}: {reason}")]
    Away { what: String, reason: String },
    #[error("{what}: found status {status}, expected 201 or 204")]
    Refused { what: String, status: u16 },
}

impl Media {
    /// Connects to nothing yet. `None`: pictures are not taken.
    pub(crate) fn new(config: &Serve, trust: &Trust) -> anyhow::Result<Option<Self>> {
        if let Some(folder) = &config.media_dir {
            return Ok(Some(Self::Folder(folder.clone())));
        }
        config.media_url.as_ref().map(|url| Server::new(url.media()?, trust).map(Self::Server)).transpose()
    }

    pub(crate) async fn keep(&self, path: &str, bytes: &Bytes) -> Result<(), MediaError> {
        match self {
            Self::Folder(folder) => keep(folder, path, bytes).await.map_err(|source| MediaError::Folder {
                path: path.to_owned(),
                folder: folder.clone(),
                source,
            }),
            Self::Server(server) => server.put(path, bytes).await,
        }
    }

    /// Only a server can be; what becomes of a directory is seen when something is written there.
    pub(crate) async fn is_away(&self) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::Server(server) => {
                server.ask(Method::HEAD, "", None).await.map_or(true, |answer| answer.status().is_server_error())
            }
        }
    }
}

impl Server {
    fn new(mut base: Url, trust: &Trust) -> anyhow::Result<Self> {
        let authorization = take_credentials(&mut base)?;
        as_folder(&mut base);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&*trust.tls()?))
            .connect_timeout(CONNECT_WITHIN)
            .timeout(PUT_WITHIN)
            .pool_idle_timeout(IDLE)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .context("prepare the connections to APP_MEDIA_URL")?;
        Ok(Self { base, authorization, http })
    }

    async fn put(&self, path: &str, bytes: &Bytes) -> Result<(), MediaError> {
        let span = traces::call("media", "PUT");
        let answer = self.ask(Method::PUT, path, Some(bytes.clone())).instrument(span).await?;
        match answer.status().as_u16() {
            200 | 201 | 204 => Ok(()),
            status => Err(MediaError::Refused { what: what(&Method::PUT, path), status }),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Response, MediaError> {
        let away = |reason: String| MediaError::Away { what: what(&method, path), reason };
        let url = self.base.join(path).map_err(|error| away(error.to_string()))?;
        let mut request = self.http.request(method.clone(), url);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        request.send().await.map_err(|error| away(causes(&error.without_url())))
    }
}

fn what(method: &Method, path: &str) -> String {
    format!("{method} {path:?} below APP_MEDIA_URL")
}

async fn keep(folder: &Path, path: &str, bytes: &[u8]) -> std::io::Result<()> {
    let target = folder.join(path);
    match fs::metadata(&target).await {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).await?;
    }
    let draft = folder.join(format!(".{}", Uuid::new_v4()));
    let written = async {
        let mut file = fs::File::create_new(&draft).await?;
        file.write_all(bytes).await?;
        file.sync_all().await?;
        fs::rename(&draft, &target).await
    };
    let written = written.await;
    if written.is_err() {
        // What is left is not reachable by any name that the shop gives out.
        let _ = fs::remove_file(&draft).await;
    }
    written
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_file_appears_whole_and_once() {
        let folder = std::env::temp_dir().join(format!("app-media-{}", Uuid::new_v4()));
        for _ in 0..2 {
            keep(&folder, "ab/abc.png", b"bytes").await.unwrap();
        }
        assert_eq!(std::fs::read(folder.join("ab/abc.png")).unwrap(), b"bytes");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no draft is left");
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(keep(Path::new("/proc/nowhere"), "ab/abc.png", b"").await.is_err());
    }

    fn server(url: &str) -> Server {
        let url: crate::config::SecretUrl = url.parse().unwrap();
        Server::new(url.media().unwrap(), &Trust::default()).unwrap()
    }

    /// What a PUT sends to a server that answers like this, and what becomes of it.
    async fn put(answer: &'static str) -> (String, Result<(), MediaError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = server(&format!("http://app:p%40ss@{}/media", listener.local_addr().unwrap()));
        let seen = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let put = server.put("ab/abc.png", &Bytes::from_static(b"bytes")).await;
        (seen.await.unwrap(), put)
    }

    #[tokio::test]
    async fn credentials_are_sent_as_a_header_and_shown_nowhere() {
        let (request, put) = put("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await;
        put.unwrap();
        assert!(request.starts_with("PUT /media/ab/abc.png HTTP/1.1\r\n"), "{request}");
        // app:p@ss
        assert!(request.contains("Basic YXBwOnBAc3M="), "{request}");
    }

    #[tokio::test]
    async fn only_what_says_that_it_was_stored_is_believed_and_nobody_is_followed() {
        for answer in [
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
        ] {
            let (_, put) = put(answer).await;
            let error = put.unwrap_err().to_string();
            assert!(error.starts_with("PUT \"ab/abc.png\" below APP_MEDIA_URL: found status "), "{error}");
            assert!(!error.contains("ss@"), "{error}");
        }
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = server(&format!("http://app:hunter2@{unused}/media/"));
        let error = server.put("ab/abc.png", &Bytes::new()).await.unwrap_err().to_string();
        assert!(error.contains("refused") && !error.contains("hunter2"), "{error}");
        assert!(Media::Server(server).is_away().await);
    }
}
