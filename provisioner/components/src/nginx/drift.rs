//! Whether the configuration that NGINX runs with is the declared one. Files that lie in the container are compared by
//! the core; a reload that failed, or one of files that were put back since, shows only here.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::drift::{Comparison, Comparisons, Repair};
use provisioner_core::stack::File;
use sha2::{Digest, Sha256};

use super::{NAME, STATUS, member, reload};
use crate::http::Site;

const WHAT: &str = "configuration";
/// Of a digest, for people.
const SHOWN: usize = 12;

pub(super) async fn drift(access: &Access<'_>) -> Comparisons {
    let Some(workload) = access.stack.workload(&member()) else { return Vec::new() };
    if access.observed.workload(&member()).is_none() {
        return Vec::new();
    }
    let comparison = match loaded(access).await {
        Ok(found) => {
            let expected = digest(&workload.files);
            let shown = |digest: &str| format!("sha256 {}", digest.chars().take(SHOWN).collect::<String>());
            let repair = Repair::Run { task: reload::task(access.stack) };
            Comparison::texts(NAME, &member(), WHAT, (shown(&expected), shown(&found)), repair)
        }
        Err(reason) => Comparison::unknown(NAME, &member(), WHAT, reason),
    };
    vec![comparison]
}

async fn loaded(access: &Access<'_>) -> Result<String, String> {
    let address = access.published(&member(), STATUS).map_err(|error| error.to_string())?;
    let reply = Site::at(address, Duration::from_secs(1))?.get("/configuration").await?;
    if reply.status != 200 {
        return Err(format!("/configuration: {}, expected 200", reply.status));
    }
    Ok(reply.text().trim().to_owned())
}

/// As nginx.sh counts it: nginx.conf, then what lies in site/, by name.
fn digest(files: &[File]) -> String {
    let mut counted: Vec<&File> = files.iter().filter(|file| file.path.starts_with("/etc/nginx/site/")).collect();
    counted.sort_by_key(|file| &file.path);
    let mut hash = Sha256::new();
    for file in files.iter().filter(|file| file.path == "/etc/nginx/nginx.conf").chain(counted) {
        hash.update(file.content.masked());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rendered_files;
    use super::*;
    use crate::testing::manifest;

    #[test]
    fn every_file_that_is_loaded_counts_and_content_does_not() {
        let files = rendered_files(&manifest());
        let whole = digest(&files);
        for (at, file) in files.iter().enumerate() {
            let without: Vec<File> =
                files.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, file)| file.clone()).collect();
            let is_loaded = file.path == "/etc/nginx/nginx.conf" || file.path.starts_with("/etc/nginx/site/");
            assert_eq!(digest(&without) != whole, is_loaded, "{}", file.path);
        }
    }

    /// The values of secrets are not in what is counted: they would differ from the masked text.
    #[test]
    fn nothing_that_is_counted_holds_a_secret() {
        for file in rendered_files(&manifest()).iter().filter(|file| file.path.starts_with("/etc/nginx/site/")) {
            assert_eq!(file.content.secrets().len(), 0, "{}", file.path);
        }
    }
}
