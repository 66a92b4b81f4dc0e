//! The queues that there are. Those of this program's own workers, unless whoever runs the broker says otherwise.

use std::{
    io,
    path::{Path, PathBuf},
};

const OWN: [&str; 3] = ["email", "search", "custom"];
/// `q.dead.` before it must still be the name of a queue.
const LENGTH_MAX: usize = 200;

#[derive(Debug, thiserror::Error)]
pub(crate) enum QueuesError {
    #[error("read the names of the queues in {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("read the names of the queues in {}: found {found:?}, expected a name a line, such as email", file.display())]
    NoName { file: PathBuf, found: String },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Queues {
    file: Option<PathBuf>,
}

impl Queues {
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self { file }
    }

    /// Read each time: a queue may come or go while this process runs.
    pub(crate) async fn names(&self) -> Result<Vec<String>, QueuesError> {
        let Some(file) = &self.file else { return Ok(OWN.map(str::to_owned).to_vec()) };
        let text = tokio::fs::read_to_string(file).await;
        let text = text.map_err(|error| QueuesError::Unreadable { file: file.clone(), error })?;
        names(file, &text)
    }
}

fn names(file: &Path, text: &str) -> Result<Vec<String>, QueuesError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let is_name = line.len() <= LENGTH_MAX
                && line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            let no_name = || QueuesError::NoName { file: file.to_owned(), found: line.to_owned() };
            is_name.then(|| line.to_owned()).ok_or_else(no_name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_and_anything_else_is_told() {
        let file = Path::new("queues");
        assert_eq!(names(file, "email\n\n invoices \n").unwrap(), ["email", "invoices"]);
        let error = names(file, "email\nq invoices\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "read the names of the queues in queues: found \"q invoices\", expected a name a line, such as email"
        );
    }
}
