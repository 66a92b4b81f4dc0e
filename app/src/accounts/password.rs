//! Passwords: Argon2id with the parameters that OWASP names (19 MiB, 2 passes, 1 lane).

use std::{sync::OnceLock, time::Duration};

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// NIST SP 800-63B: length is what counts, and no rules about characters.
pub(crate) const LENGTH_MIN: usize = 10;
/// Longer ones only cost time.
pub(crate) const LENGTH_MAX: usize = 200;
/// Each takes 19 MiB and a core for some 20 ms.
const AT_ONCE: usize = 2;
const QUEUE_LIMIT: Duration = Duration::from_secs(2);

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error("too many passwords are being checked")]
    Busy,
    #[error("hash a password: {0}")]
    Hash(String),
}

pub(crate) async fn hash(password: String) -> Result<String, PasswordError> {
    in_turn(move || hashed(&password)).await?
}

/// `stored` is `None` where nobody has that address: it takes the same time, so that an answer does not tell.
pub(crate) async fn matches(password: String, stored: Option<String>) -> Result<bool, PasswordError> {
    in_turn(move || {
        let is_known = stored.is_some();
        let stored = match stored {
            Some(stored) => stored,
            None => nobodys()?.to_owned(),
        };
        let stored = PasswordHash::new(&stored).map_err(|error| PasswordError::Hash(error.to_string()))?;
        Ok(Argon2::default().verify_password(password.as_bytes(), &stored).is_ok() && is_known)
    })
    .await?
}

async fn in_turn<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
) -> Result<Result<T, PasswordError>, PasswordError> {
    let turn = timeout(QUEUE_LIMIT, TURNS.acquire()).await;
    let Ok(Ok(turn)) = turn else { return Err(PasswordError::Busy) };
    // The turn goes with the work: a client that hangs up ends this future, and not what it set going.
    let working = spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    working.await.map_err(|error| PasswordError::Hash(error.to_string()))
}

fn hashed(password: &str) -> Result<String, PasswordError> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    Ok(hash.map_err(|error| PasswordError::Hash(error.to_string()))?.to_string())
}

/// Made with the parameters of today, like everybody's.
fn nobodys() -> Result<&'static str, PasswordError> {
    static NOBODYS: OnceLock<String> = OnceLock::new();
    if let Some(hash) = NOBODYS.get() {
        return Ok(hash);
    }
    let hash = hashed("nobody has this password")?;
    Ok(NOBODYS.get_or_init(|| hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_its_own_hash_alone() {
        let stored = hash("correct horse battery".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(matches("correct horse battery".to_owned(), Some(stored.clone())).await.unwrap());
        assert!(!matches("correct horse batterz".to_owned(), Some(stored.clone())).await.unwrap());
        assert!(!matches("nobody has this password".to_owned(), None).await.unwrap());
        assert_ne!(stored, hash("correct horse battery".to_owned()).await.unwrap(), "each has a salt of its own");
    }
}
