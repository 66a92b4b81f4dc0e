//! An error as people meet it: what was being done, what went wrong, what to do next.

use std::error::Error;
use std::fmt;

use crate::engine::EngineError;
use crate::record::RecordError;

/// Reads as a present-tense chain (`clone postgres-2: connect to postgres-1: connection refused`), with hints and the
/// failed program's own last words as data beside it.
#[derive(Debug)]
pub struct Failure {
    context: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    pub hints: Vec<String>,
    /// The last lines that the program printed.
    pub output: Option<String>,
}

impl Failure {
    pub fn new(context: impl Into<String>) -> Self {
        Self { context: context.into(), source: None, hints: Vec::new(), output: None }
    }

    pub fn because(context: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..Self::new(context) }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub fn output(mut self, output: impl Into<String>) -> Self {
        self.output = Some(output.into());
        self
    }

    /// The same failure as a part of something larger; hints and output stay with it.
    pub fn within(mut self, context: impl Into<String>) -> Self {
        let (hints, output) = (std::mem::take(&mut self.hints), self.output.take());
        Self { hints, output, ..Self::because(context, self) }
    }

    /// The whole chain on one line.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with all that caused it, on one line: many libraries say what went wrong only in their sources.
pub fn chain(error: &dyn Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push_str(": ");
        chain.push_str(&cause.to_string());
        source = cause.source();
    }
    chain
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Malformed { ref source, .. } => Self::new(format!("{error}: {source}")),
            other => Self::new(other.to_string()),
        }
    }
}
