//! Logins of registries, from where `docker login` keeps them: its `config.json`, or the programs that this names.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The name under which Docker's own registry is kept.
const HUB: &str = "https://index.docker.io/v1/";
/// A helper may ask a keychain; one that says nothing for so long waits for somebody who is not there.
const HELPER_LIMIT: Duration = Duration::from_secs(30);

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

#[derive(Default, Deserialize)]
struct Login {
    /// `user:password` in base64.
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

#[derive(Deserialize)]
struct Kept {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// The registry of an image's name, as logins are kept by it.
pub(crate) fn registry(name: &str) -> &str {
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => HUB,
    }
}

/// `None`: nobody is logged in there, which may be all that the registry asks.
pub(crate) async fn find(folder: &Path, registry: &str) -> Result<Option<DockerCredentials>, String> {
    let path = folder.join("config.json");
    let config = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Config>(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("read {}: {error}", path.display())),
    };
    let config = config.map_err(|error| format!("read {}: {error}", path.display()))?;
    let helper = config.helpers.get(registry).unwrap_or(&config.store);
    if !helper.is_empty()
        && let Some(kept) = ask(helper, registry).await?
    {
        return Ok(Some(kept));
    }
    let known = config.auths.iter().find(|(name, _)| host(name) == host(registry));
    let Some((_, Login { auth, identity_token })) = known else { return Ok(None) };
    if !identity_token.is_empty() {
        return Ok(Some(login(registry, "<token>", identity_token)));
    }
    if auth.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("read {}: the login of {registry} is not `user:password` in base64", path.display());
    let text = STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong)?;
    let (user, password) = text.split_once(':').ok_or_else(wrong)?;
    Ok(Some(login(registry, user, password)))
}

/// Older clients have kept whole addresses.
fn host(name: &str) -> &str {
    let rest = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    rest.split('/').next().unwrap_or(rest)
}

fn login(registry: &str, user: &str, secret: &str) -> DockerCredentials {
    let mut credentials =
        DockerCredentials { serveraddress: Some(registry.to_owned()), ..DockerCredentials::default() };
    if user == "<token>" {
        credentials.identitytoken = Some(secret.to_owned());
    } else {
        credentials.username = Some(user.to_owned());
        credentials.password = Some(secret.to_owned());
    }
    credentials
}

/// The registry goes to the helper's input and the secret comes from its output, so that neither is on a command line.
async fn ask(helper: &str, registry: &str) -> Result<Option<DockerCredentials>, String> {
    let program = format!("docker-credential-{helper}");
    let failed = |error: io::Error| format!("ask {program} for the login of {registry}: {error}");
    let mut command = Command::new(&program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(registry.as_bytes()).await.map_err(failed)?;
    }
    let ended = tokio::time::timeout(HELPER_LIMIT, child.wait_with_output()).await;
    let output = ended.map_err(|_| format!("ask {program} for the login of {registry}: no answer"))?.map_err(failed)?;
    // One that knows nothing of the registry says so by its exit code.
    if !output.status.success() {
        return Ok(None);
    }
    let kept: Kept = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("ask {program} for the login of {registry}: found no JSON with Username and Secret"))?;
    Ok(Some(login(registry, &kept.user, &kept.secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(config: &str, registry: &str) -> Result<Option<DockerCredentials>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        find(folder.path(), registry).await
    }

    #[test]
    fn a_registry_is_told_from_a_path_of_dockers_own() {
        let names = ["shop/app", "ghcr.io/shop/app", "127.0.0.1:5000/app", "localhost/app", "app"];
        assert_eq!(names.map(registry), [HUB, "ghcr.io", "127.0.0.1:5000", "localhost", HUB]);
    }

    #[tokio::test]
    async fn a_login_is_found_by_its_host() {
        // ada:se:cret
        let config = r#"{"auths": {"https://registry.example/v1/": {"auth": "YWRhOnNlOmNyZXQ="}}}"#;
        let login = found(config, "registry.example").await.unwrap().unwrap();
        assert_eq!((login.username.as_deref(), login.password.as_deref()), (Some("ada"), Some("se:cret")));
        assert_eq!(found(config, "other.example").await, Ok(None));
        let token = r#"{"auths": {"registry.example": {"identitytoken": "t"}}}"#;
        assert_eq!(found(token, "registry.example").await.unwrap().unwrap().identitytoken.as_deref(), Some("t"));
    }

    #[tokio::test]
    async fn without_a_configuration_nobody_is_logged_in_and_a_broken_one_is_told_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find(folder.path(), "registry.example").await, Ok(None));
        let said = found(r#"{"auths": {"registry.example": {"auth": "c2VjcmV0"}}}"#, "registry.example").await;
        let said = said.unwrap_err();
        assert!(said.contains("is not `user:password` in base64") && !said.contains("c2VjcmV0"), "{said}");
        let said = found(r#"{"credsStore": "no-such-helper"}"#, "registry.example").await.unwrap_err();
        assert!(said.starts_with("ask docker-credential-no-such-helper for the login of registry.example"), "{said}");
    }
}
