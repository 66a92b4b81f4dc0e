//! Secret variables reach a process through a file that its own shell reads, so that neither the description of a
//! container nor any argument list shows them.

use std::collections::BTreeMap;

use super::{MissingSecret, Text};

/// The file, inside the container.
pub const SECRET_ENV_FILE: &str = "/run/provisioner/env";
const WITH_SECRET_ENV: &str = r#"set -a; . /run/provisioner/env; set +a; exec "$@""#;

/// What stands before the command of a process with secret variables.
pub fn secret_shell() -> [String; 4] {
    ["/bin/sh", "-c", WITH_SECRET_ENV, "sh"].map(str::to_owned)
}

/// The content of [`SECRET_ENV_FILE`]; `None`: there are no such variables.
pub fn secret_env_text(
    variables: &BTreeMap<String, Text>,
    values: &BTreeMap<String, String>,
) -> Result<Option<String>, MissingSecret> {
    if variables.is_empty() {
        return Ok(None);
    }
    let mut content = String::new();
    for (name, text) in variables {
        let quoted = text.resolve(values)?.replace('\'', r"'\''");
        content.push_str(&format!("{name}='{quoted}'\n"));
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_variables_are_quoted_for_the_shell() {
        let variables = BTreeMap::from([("URL".to_owned(), Text::new(format!("a'b {}", Text::secret("pw"))))]);
        let values = BTreeMap::from([("pw".to_owned(), "s3cret".to_owned())]);
        let text = secret_env_text(&variables, &values).unwrap();
        assert_eq!(text.as_deref(), Some("URL='a'\\''b s3cret'\n"));
        assert_eq!(secret_env_text(&BTreeMap::new(), &values).unwrap(), None);
    }
}
