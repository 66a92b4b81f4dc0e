//! `app admin EMAIL`: makes an administrator, or makes one of somebody who has an account.

use std::io::{BufRead, stdin};

use anyhow::{Context, ensure};

use super::password::{self, LENGTH_MAX, LENGTH_MIN};
use crate::{
    basket::looks_like_email,
    config,
    store::{pools, users},
};

/// The password comes by standard input, because what programs are called with can be seen by everybody on the host.
pub(crate) async fn make(config: &config::Admin) -> anyhow::Result<()> {
    let email = config.email.to_ascii_lowercase();
    ensure!(looks_like_email(&email), "found {email:?}, expected an address such as ada@example.org");
    let password = read(stdin().lock())?;
    let hash = password::hash(password).await?;
    let pool = pools::write_pool(config.database_url.postgres()?, 1);
    let is_new = users::make_admin(&pool, &email, &hash).await.context("write the administrator")?;
    if is_new {
        tracing::info!(email, "a new administrator");
    } else {
        tracing::info!(email, "an administrator now, with the new password; sessions and tokens of before are over");
    }
    Ok(())
}

/// One line without its end.
fn read(mut input: impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line).context("read the password from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']);
    let length = password.chars().count();
    ensure!(
        length >= LENGTH_MIN && password.len() <= LENGTH_MAX,
        "found a password of {length} characters on standard input, expected {LENGTH_MIN} to {LENGTH_MAX}: \
         app admin EMAIL < FILE"
    );
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_the_first_line_and_is_not_repeated_when_it_is_refused() {
        assert_eq!(read(&b"correct horse battery\r\nmore\n"[..]).unwrap(), "correct horse battery");
        assert_eq!(read(&b" spaces stay  "[..]).unwrap(), " spaces stay  ");
        for bad in ["", "\n", "too short\n", &"x".repeat(201)] {
            let error = format!("{:#}", read(bad.as_bytes()).unwrap_err());
            assert!(error.starts_with("found a password of ") && !error.contains("too short"), "{error}");
        }
    }
}
