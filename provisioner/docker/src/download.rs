//! Files of the network that image recipes need: fetched once, kept on the operator's machine by their hash, and taken up
//! again where a fetch was cut off.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use provisioner_core::engine::{EngineError, Output};
use provisioner_core::failure::chain;
use provisioner_core::stack::{ImageInput, Recipe};
use provisioner_core::wait;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, StatusCode};
use sha2::{Digest, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A server that sends nothing for this long is given up; the next attempt goes on where this one stopped.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 4;
/// Before the second attempt; longer before each later one.
const PAUSE: Duration = Duration::from_millis(250);
/// Told each time so much has come.
const STEP: u64 = 16 << 20;

/// Where downloads are kept, decided by whoever reads the environment.
#[derive(Clone, Debug)]
pub struct Downloads {
    pub directory: PathBuf,
}

struct Wanted<'a> {
    url: &'a str,
    sha256: &'a str,
    size_bytes: u64,
}

impl Downloads {
    /// The kept file of a download.
    pub(crate) fn file(&self, sha256: &str) -> PathBuf {
        self.directory.join(sha256)
    }

    /// Makes sure of every download that the recipe names.
    pub(crate) async fn fetch(&self, recipe: &Recipe, output: &dyn Output) -> Result<(), EngineError> {
        for input in &recipe.inputs {
            if let ImageInput::Download { url, sha256, size_bytes, .. } = input {
                self.ensure(&Wanted { url, sha256, size_bytes: *size_bytes }, output).await?;
            }
        }
        Ok(())
    }

    async fn ensure(&self, wanted: &Wanted<'_>, output: &dyn Output) -> Result<(), EngineError> {
        let operation = format!("download {}", wanted.url);
        let failed = |error: &dyn std::fmt::Display| EngineError::failed(operation.as_str(), error);
        let kept = self.file(wanted.sha256);
        // Named by its content only once that was checked.
        if fs::metadata(&kept).await.is_ok_and(|found| found.len() == wanted.size_bytes) {
            return Ok(());
        }
        fs::create_dir_all(&self.directory).await.map_err(|error| failed(&error))?;
        let partial = self.directory.join(format!("{}.partial", wanted.sha256));
        // Another crate of the program may have chosen a provider already; any one will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().connect_timeout(CONNECT_LIMIT).read_timeout(SILENCE_LIMIT).build();
        let client = client.map_err(|error| failed(&error))?;
        let mut last = String::new();
        for attempt in 1..=ATTEMPTS {
            match fetch_once(&client, wanted, &partial, output).await {
                Ok(()) => match hash(&partial).await {
                    Ok(found) if found == wanted.sha256 => {
                        return fs::rename(&partial, &kept).await.map_err(|error| failed(&error));
                    }
                    Ok(found) => {
                        // What is wrong would stay wrong, however much is added to it.
                        let _ = fs::remove_file(&partial).await;
                        last = format!("found a file with SHA-256 {found}, expected {}", wanted.sha256);
                    }
                    Err(error) => return Err(failed(&error)),
                },
                Err(Broken::Final(error)) => return Err(failed(&error)),
                Err(Broken::Again(error)) => last = error,
            }
            output.line(&format!("attempt {attempt} of {ATTEMPTS}: {last}"));
            if attempt < ATTEMPTS {
                wait::pause(PAUSE * attempt).await;
            }
        }
        let have = fs::metadata(&partial).await.map_or(0, |found| found.len());
        Err(failed(&format!(
            "{last} ({ATTEMPTS} attempts, {} of {} MiB kept; the next run goes on from there)",
            have >> 20,
            wanted.size_bytes >> 20
        )))
    }
}

enum Broken {
    /// Another attempt may go on.
    Again(String),
    Final(String),
}

/// Adds to what is there already.
async fn fetch_once(client: &Client, wanted: &Wanted<'_>, partial: &Path, output: &dyn Output) -> Result<(), Broken> {
    let again = |error: reqwest::Error| Broken::Again(chain(&error));
    let disk = |error: io::Error| Broken::Final(format!("write {}: {error}", partial.display()));
    let mut have = fs::metadata(partial).await.map_or(0, |found| found.len());
    if have == wanted.size_bytes {
        return Ok(());
    }
    let mut request = client.get(wanted.url);
    if have > 0 && have < wanted.size_bytes {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let response = request.send().await.map_err(again)?;
    let status = response.status();
    let is_rest = status == StatusCode::PARTIAL_CONTENT && response.headers().contains_key(CONTENT_RANGE);
    if !status.is_success() {
        let told = format!("{status}, expected 200");
        return Err(if status.is_client_error() { Broken::Final(told) } else { Broken::Again(told) });
    }
    let mut file = if is_rest {
        OpenOptions::new().append(true).open(partial).await.map_err(disk)?
    } else {
        have = 0;
        File::create(partial).await.map_err(disk)?
    };
    let mut body = response.bytes_stream();
    let mut told = have / STEP;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(again)?;
        have += chunk.len() as u64;
        if have > wanted.size_bytes {
            return Err(Broken::Final(format!("found more than {} bytes, expected as many", wanted.size_bytes)));
        }
        file.write_all(&chunk).await.map_err(disk)?;
        if have / STEP > told {
            told = have / STEP;
            output.line(&format!("{}: {} of {} MiB", wanted.url, have >> 20, wanted.size_bytes >> 20));
        }
    }
    file.flush().await.map_err(disk)?;
    if have < wanted.size_bytes {
        return Err(Broken::Again(format!("the connection ended after {have} of {} bytes", wanted.size_bytes)));
    }
    Ok(())
}

async fn hash(file: &Path) -> io::Result<String> {
    let file = file.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut source = std::fs::File::open(file)?;
        let mut hasher = Sha256::new();
        io::copy(&mut source, &mut hasher)?;
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    });
    hashed.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    const CONTENT: &[u8] = b"0123456789";
    const SHA256: &str = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Output for Told {
        fn line(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    /// Answers each connection in turn with the part of the content that it asks for, cut off after so many bytes.
    async fn serving(cuts: Vec<usize>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file.zip", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let mut ranges = Vec::new();
            for cut in cuts {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let (mut line, mut from) = (String::new(), 0);
                while stream.read_line(&mut line).await.unwrap() > 2 {
                    if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                        ranges.push(range.trim().to_owned());
                        from = range.split('-').next().unwrap().parse().unwrap();
                    }
                    line.clear();
                }
                let (status, rest) = match from {
                    0 => ("200 OK", CONTENT),
                    _ => ("206 Partial Content\r\nContent-Range: bytes */10", &CONTENT[from..]),
                };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", rest.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&rest[..cut.min(rest.len())]).await.unwrap();
                stream.flush().await.unwrap();
            }
            ranges
        });
        (url, asked)
    }

    fn folder() -> (tempfile::TempDir, Downloads) {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("downloads");
        (folder, Downloads { directory })
    }

    #[tokio::test]
    async fn a_fetch_that_was_cut_off_goes_on_where_it_stopped() {
        let (_folder, downloads) = folder();
        let (url, asked) = serving(vec![4, 3, 10]).await;
        let wanted = Wanted { url: &url, sha256: SHA256, size_bytes: 10 };
        downloads.ensure(&wanted, &Told::default()).await.unwrap();
        assert_eq!(asked.await.unwrap(), ["4-", "7-"]);
        assert_eq!(fs::read(downloads.file(SHA256)).await.unwrap(), CONTENT);
        // Kept: nobody serves any more.
        downloads.ensure(&wanted, &Told::default()).await.unwrap();
    }

    #[tokio::test]
    async fn another_content_is_refused_and_not_kept() {
        let (_folder, downloads) = folder();
        let (url, _asked) = serving(vec![10; 4]).await;
        let other = "0".repeat(64);
        let wanted = Wanted { url: &url, sha256: &other, size_bytes: 10 };
        let error = downloads.ensure(&wanted, &Told::default()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("found a file with SHA-256 {SHA256}, expected {other}")), "{error}");
        assert!(fs::read_dir(&downloads.directory).await.unwrap().next_entry().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_mirror_that_cannot_be_reached_is_one_clear_line() {
        let (_folder, downloads) = folder();
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let url = format!("http://{unused}/file.zip");
        let told = Told::default();
        let wanted = Wanted { url: &url, sha256: SHA256, size_bytes: 10 };
        let error = downloads.ensure(&wanted, &told).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("download {url}: ")) && error.contains("refused"), "{error}");
        assert!(error.ends_with("(4 attempts, 0 of 0 MiB kept; the next run goes on from there)"), "{error}");
        assert_eq!(told.0.lock().unwrap().len(), 4);
    }

    #[tokio::test]
    async fn what_the_server_has_not_is_not_asked_for_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file.zip", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap() > 2 {
                line.clear();
            }
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        });
        let (_folder, downloads) = folder();
        let wanted = Wanted { url: &url, sha256: SHA256, size_bytes: 10 };
        let error = downloads.ensure(&wanted, &Told::default()).await.unwrap_err().to_string();
        assert_eq!(error, format!("download {url}: 404 Not Found, expected 200"));
    }
}
