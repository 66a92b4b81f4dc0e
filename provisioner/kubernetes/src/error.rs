//! kube's errors as the core's: what was being done, what the server said, and what helps.

use std::error::Error as StdError;

use kube::Error;
use kube::core::Status;
use provisioner_core::engine::EngineError;

pub const ENGINE: &str = "Kubernetes";

/// Turns the error of one request into the core's. `address` is where the server was looked for.
pub(crate) fn translate(error: Error, operation: String, address: &str) -> EngineError {
    match error {
        Error::Api(status) => answered(&status, operation, address),
        Error::Auth(error) => {
            EngineError::unfit(operation, format!("no credentials for {address}: {}; log in again", chain(&error)))
        }
        Error::HyperError(error) => unreachable(&error, address),
        Error::Service(error) => unreachable(&*error, address),
        Error::UpgradeConnection(error) => EngineError::failed(operation, chain(&error)),
        error => EngineError::failed(operation, chain(&error)),
    }
}

fn unreachable(error: &(dyn StdError + 'static), address: &str) -> EngineError {
    EngineError::Unreachable { engine: ENGINE, address: address.to_owned(), detail: chain(error) }
}

/// Every cause once; some repeat what is below them.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in std::iter::successors(Some(error), |&cause| cause.source()) {
        let said = cause.to_string();
        if text.is_empty() {
            text = said;
        } else if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
    }
    text
}

fn answered(status: &Status, operation: String, address: &str) -> EngineError {
    match status.code {
        401 => EngineError::unfit(
            operation,
            format!(
                "{ENGINE} at {address} refuses the credentials of the context, they may have expired; log in again"
            ),
        ),
        403 if !status.message.contains("is forbidden: User") => EngineError::failed(operation, &status.message),
        403 => EngineError::unfit(operation, forbidden(&status.message)),
        404 => EngineError::NotFound { what: missing(status).unwrap_or(format!("{operation}: {}", status.message)) },
        409 if status.details.as_ref().is_some_and(|details| is_manager_conflict(&details.causes)) => {
            EngineError::failed(operation, conflict(status))
        }
        _ => EngineError::failed(operation, &status.message),
    }
}

/// `pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "dev"`
fn forbidden(message: &str) -> String {
    let said = message.split_once("is forbidden: ").map_or(message, |(_, said)| said);
    format!(
        "{said}; provisioner doctor names all that is missing, provisioner config rbac prints the Role that it needs"
    )
}

fn missing(status: &Status) -> Option<String> {
    let details = status.details.as_ref().filter(|details| !details.name.is_empty())?;
    Some(format!("{} {}", details.kind.trim_end_matches('s'), details.name))
}

fn is_manager_conflict(causes: &[kube::core::response::StatusCause]) -> bool {
    causes.iter().any(|cause| cause.reason == "FieldManagerConflict")
}

/// `conflict with "kubectl-edit" using apps/v1` and `.spec.replicas`
fn conflict(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let told = causes.map(|cause| {
        let manager = cause.message.split('"').nth(1).unwrap_or(&cause.message);
        format!("{} was set by {manager}", cause.field.trim_start_matches('.'))
    });
    let told: Vec<String> = told.collect();
    format!(
        "{}; it is not overwritten: give the field back (kubectl edit), or remove the object and run this again",
        told.join(", ")
    )
}

/// The status code of the server's answer.
pub(crate) fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Nothing may be made in a namespace that is on its way out.
pub(crate) fn is_terminating(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 403 && status.message.contains("because it is being terminated"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(status: serde_json::Value) -> String {
        let status: Status = serde_json::from_value(status).unwrap();
        translate(Error::Api(Box::new(status)), "apply deployment nginx-1".to_owned(), "https://k:6443").to_string()
    }

    #[test]
    fn a_missing_permission_names_verb_resource_and_namespace() {
        let message =
            r#"pods is forbidden: User "ada" cannot list resource "pods" in API group "" in the namespace "dev""#;
        let expected = r#"apply deployment nginx-1: User "ada" cannot list resource "pods" in API group "" in the namespace "dev"; provisioner doctor names all that is missing, provisioner config rbac prints the Role that it needs"#;
        assert_eq!(said(json!({"code": 403, "reason": "Forbidden", "message": message})), expected);
    }

    #[test]
    fn what_an_admission_refuses_is_told_in_its_own_words() {
        let message = r#"pods "x" is forbidden: exceeded quota: small, requested: cpu=2, used: cpu=1, limited: cpu=2"#;
        let expected = format!("apply deployment nginx-1: {message}");
        assert_eq!(said(json!({"code": 403, "message": message})), expected);
    }

    #[test]
    fn expired_credentials_are_told_as_such() {
        let said = said(json!({"code": 401, "reason": "Unauthorized", "message": "Unauthorized"}));
        assert!(said.contains("https://k:6443 refuses the credentials") && said.ends_with("log in again"), "{said}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let details = json!({"name": "redis-1", "kind": "statefulsets", "group": "apps"});
        let status = json!({"code": 404, "message": "statefulsets.apps \"redis-1\" not found", "details": details});
        assert_eq!(said(status), "statefulset redis-1 does not exist");
    }

    #[test]
    fn another_managers_edit_is_told_by_manager_and_field() {
        let cause = json!({
            "reason": "FieldManagerConflict",
            "message": "conflict with \"kubectl-edit\" using apps/v1",
            "field": ".spec.template.spec.containers[name=\"main\"].image",
        });
        let said = said(json!({"code": 409, "message": "conflict", "details": {"causes": [cause]}}));
        assert!(
            said.starts_with(
                "apply deployment nginx-1: spec.template.spec.containers[name=\"main\"].image was set by kubectl-edit; "
            ),
            "{said}"
        );
    }
}
