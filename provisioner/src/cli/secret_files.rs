//! Files of this machine that hold secrets: somebody's own certificate, a password of a mail server, a pager's key, what the
//! app is told. Here they are only looked at; the engine reads them again when it takes them over.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use provisioner_core::clock;
use provisioner_core::engine::{Condition, Engine};
use provisioner_core::manifest::{HostFiles, MailServer, Manifest, OwnPair};
use provisioner_core::secret;
use provisioner_core::stack::Fingerprint;

use super::exit::{Exit, Stop};
use super::manifests::{Program, beside};
use crate::context::Place;

/// A chain of certificates is a few KiB; more is another file given by mistake.
const SIZE_MAX: u64 = 256 << 10;

pub(super) fn read(manifest: &mut Manifest, manifest_path: &Path, program: Program) -> anyhow::Result<()> {
    let own = manifest.nginx.tls.as_mut().and_then(|tls| tls.own.as_mut());
    if let Some(OwnPair::Files(own)) = own {
        let key = "nginx.tls.certificate";
        if let Some(text) = read_one(own, key, manifest_path, program)? {
            secret::check_own(&text, clock::unix_seconds()).map_err(|error| {
                let files: Vec<_> = own.files.iter().map(|file| file.display().to_string()).collect();
                let stop = Stop::new(Exit::Manifest, format!("read {key} {}: {error}", files.join(" and ")));
                stop.hint(
                    "name key and certificate of one pair as PEM, the certificate first in its chain; \
                           or leave both out, and the stack's own authority issues one",
                )
            })?;
        }
    }
    if let Some(MailServer::Smtp { login: Some(login), .. }) = manifest.mail.as_mut().map(|mail| &mut mail.server) {
        read_one(&mut login.password, "mail.password_file", manifest_path, program)?;
    }
    for (name, external) in manifest.externals() {
        if let Some(password) = &mut external.password {
            read_one(password, &format!("{name}.external.password_file"), manifest_path, program)?;
        }
        let Some(ca) = &mut external.ca else { continue };
        let key = format!("{name}.external.ca_file");
        let text = read_one(ca, &key, manifest_path, program)?;
        if text.is_some_and(|text| secret::part(&text, "crt").is_none()) {
            let files: Vec<_> = ca.files.iter().map(|file| file.display().to_string()).collect();
            let message = format!("read {key} {}: there is no certificate, expected PEM", files.join(" and "));
            return Err(Stop::new(Exit::Manifest, message).into());
        }
    }
    for (name, files) in &mut manifest.app.secret_env {
        read_one(files, &format!("app.secret_env.{name}"), manifest_path, program)?;
    }
    if let Some(monitoring) = &mut manifest.monitoring {
        let pagers = [
            ("monitoring.pagerduty.key_file", &mut monitoring.pagerduty),
            ("monitoring.opsgenie.key_file", &mut monitoring.opsgenie),
        ];
        for (key, pager) in pagers {
            if let Some(pager) = pager {
                read_one(&mut pager.key, key, manifest_path, program)?;
            }
        }
    }
    Ok(())
}

/// The pair that the cluster keeps for somebody. What is wrong with it is for the preflight to tell, and what was taken over
/// before stays.
pub(crate) async fn ask(manifest: &mut Manifest, engine: &dyn Engine) -> Option<Condition> {
    let place = Place::of(manifest).map(|place| place.flags()).unwrap_or_default();
    let is_given = manifest.kubernetes.as_ref().is_some_and(|kubernetes| kubernetes.namespace.is_some());
    let OwnPair::Kept { secret, digest } = manifest.nginx.tls.as_mut()?.own.as_mut()? else { return None };
    let verdict = match engine.kept_pair(secret).await {
        Ok(Some(text)) => match secret::check_own(&text, clock::unix_seconds()) {
            Ok(_) => {
                *digest = Some(Fingerprint::of_bytes(text.as_bytes()));
                Ok(format!("of Secret {secret}"))
            }
            Err(error) => Err(error.to_string()),
        },
        Ok(None) if !is_given => Err("a namespace that the stack makes for itself has no Secret of somebody else's; \
             name one that is there with kubernetes.namespace or --namespace"
            .to_owned()),
        Ok(None) => Err(format!(
            "there is no such Secret with tls.key and tls.crt; kubectl create secret tls {secret}{place} --cert FILE --key FILE"
        )),
        Err(error) => Err(error.to_string()),
    };
    let verdict = verdict.map_err(|reason| format!("nginx.tls.secret {secret}: {reason}"));
    Some(Condition { subject: "certificate", verdict })
}

/// The text of the files, and their digest noted; nothing where the verb needs none.
fn read_one(
    files: &mut HostFiles,
    key: &str,
    manifest_path: &Path,
    program: Program,
) -> anyhow::Result<Option<String>> {
    for file in &mut files.files {
        *file = beside(manifest_path, file);
    }
    if program == Program::Unneeded {
        return Ok(None);
    }
    let mut text = String::new();
    for file in &files.files {
        let content = read_text(file).map_err(|error| {
            Stop::new(Exit::Manifest, format!("read {key} {}: {error}, expected a text file", file.display()))
        })?;
        text.push_str(&content);
    }
    files.digest = Fingerprint::of_bytes(text.as_bytes());
    Ok(Some(text))
}

fn read_text(file: &Path) -> std::io::Result<String> {
    let found = std::fs::metadata(file)?;
    if !found.is_file() || found.len() > SIZE_MAX {
        return Err(std::io::Error::other(format!("it is no regular file of at most {SIZE_MAX} bytes")));
    }
    let mut text = String::new();
    File::open(file)?.take(SIZE_MAX).read_to_string(&mut text)?;
    Ok(text)
}
