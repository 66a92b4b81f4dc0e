//! bollard's errors as the core's: what was being done, what the engine said, nothing lost in between.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bollard::errors::Error;
use provisioner_core::engine::EngineError;

pub(crate) const ENGINE: &str = "Docker";

/// Turns the error of one request into the core's. `address` is where the engine was looked for.
pub(crate) fn translate(error: Error, operation: String, address: &str, limit: Duration) -> EngineError {
    match error {
        Error::SocketNotFoundError(path) => EngineError::Unreachable {
            engine: ENGINE,
            address: address.to_owned(),
            detail: format!("there is no socket {path}"),
        },
        Error::RequestTimeoutError => EngineError::TimedOut { operation, after: limit },
        Error::DockerResponseServerError { status_code: 404, message } => {
            EngineError::NotFound { what: missing(&message).unwrap_or(format!("{operation}: {message}")) }
        }
        Error::DockerResponseServerError { message, .. } => EngineError::failed(operation, message),
        error => match connection_error(&error) {
            Some(io::ErrorKind::PermissionDenied) => {
                EngineError::Denied { engine: ENGINE, address: address.to_owned() }
            }
            Some(_) => EngineError::Unreachable {
                engine: ENGINE,
                address: address.to_owned(),
                detail: innermost(&error).to_string(),
            },
            None => EngineError::failed(operation, innermost(&error)),
        },
    }
}

/// The kind of the I/O error that kept us from reaching the engine, if that is what it was.
fn connection_error(error: &Error) -> Option<io::ErrorKind> {
    match error {
        Error::IOError { err } => return Some(err.kind()),
        Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } => {}
        _ => return None,
    }
    let io = chain(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
    Some(io.map_or(io::ErrorKind::Other, io::Error::kind))
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

fn innermost(error: &Error) -> &(dyn StdError + 'static) {
    chain(error).last().unwrap_or(error)
}

/// What does not exist, from the engine's own sentence: `No such container: dev-redis-1`.
fn missing(message: &str) -> Option<String> {
    let lower = message.to_ascii_lowercase();
    for kind in ["container", "image", "volume", "exec instance"] {
        if let Some(at) = lower.find(&format!("no such {kind}: ")) {
            let name = &message[at + "no such : ".len() + kind.len()..];
            return Some(format!("{kind} {}", name.trim()));
        }
    }
    // `get dev-data: no such volume`, `network dev not found`
    let volume = lower.strip_prefix("get ").and_then(|rest| rest.strip_suffix(": no such volume"));
    let network = lower.strip_prefix("network ").and_then(|rest| rest.strip_suffix(" not found"));
    volume.map(|name| format!("volume {name}")).or(network.map(|name| format!("network {name}")))
}

pub(crate) fn is_missing(error: &EngineError) -> bool {
    matches!(error, EngineError::NotFound { .. })
}

/// The status code of the engine's answer.
pub(crate) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> EngineError {
        let error = Error::DockerResponseServerError { status_code, message: message.to_owned() };
        translate(error, "start redis-1".to_owned(), "unix:///s", Duration::from_secs(60))
    }

    #[test]
    fn what_is_missing_is_named() {
        let sentences = [
            ("No such container: dev-redis-1", "container dev-redis-1 does not exist"),
            ("No such image: a:b", "image a:b does not exist"),
            ("get dev-data: no such volume", "volume dev-data does not exist"),
            ("network dev not found", "network dev does not exist"),
        ];
        for (message, expected) in sentences {
            assert_eq!(answer(404, message).to_string(), expected);
        }
    }

    #[test]
    fn the_engines_sentence_is_kept() {
        assert_eq!(answer(500, "no space left on device").to_string(), "start redis-1: no space left on device");
    }

    #[test]
    fn a_missing_socket_is_unreachable() {
        let error = translate(
            Error::SocketNotFoundError("/run/x.sock".to_owned()),
            "observe".to_owned(),
            "unix:///run/x.sock",
            Duration::ZERO,
        );
        assert_eq!(error.to_string(), "reach Docker at unix:///run/x.sock: there is no socket /run/x.sock");
    }

    #[test]
    fn a_closed_door_is_denied() {
        let error = Error::IOError { err: io::Error::from(io::ErrorKind::PermissionDenied) };
        let error = translate(error, "observe".to_owned(), "unix:///s", Duration::ZERO);
        assert!(matches!(error, EngineError::Denied { .. }), "{error}");
    }
}
