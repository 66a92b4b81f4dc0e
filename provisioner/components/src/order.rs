//! A command that waits inside a member for what it is to do. Starting one in a container takes 0.1 to 0.3 s on two busy cores;
//! one that is there already answers within some milliseconds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use provisioner_core::component::Access;
use provisioner_core::engine::{EngineError, Executed, Execution, OutputChunk};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Its input ends with it, and so does a command that waits for more.
pub(crate) struct Order {
    words: UnboundedSender<Bytes>,
    execution: Execution,
    member: Member,
    has_ended: bool,
}

/// What it has printed to a word.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) stdout: BytesMut,
    pub(crate) stderr: BytesMut,
}

impl Order {
    pub(crate) async fn give(access: &Access<'_>, member: &Member, argv: &[String]) -> Result<Self, Failure> {
        let (words, told) = unbounded_channel();
        let input = futures_util::stream::unfold(told, async |mut told| Some((Ok(told.recv().await?), told)));
        let execution = access.engine.attach(member, argv, Some(Box::pin(input))).await?;
        Ok(Self { words, execution, member: member.clone(), has_ended: false })
    }

    /// A line for it, and its answer, which is whole once `is_whole` says so of its standard output.
    pub(crate) async fn tell(&mut self, word: &str, is_whole: impl Fn(&[u8]) -> bool) -> Result<Said, Failure> {
        if self.has_ended {
            return Err(Failure::new(format!("tell {} to {word}: it has ended", self.member)));
        }
        self.send(word);
        let answered = tokio::time::timeout(ANSWER_LIMIT, answer(&mut self.execution, is_whole)).await;
        let (said, is_whole) = answered.map_err(|_| EngineError::TimedOut {
            operation: format!("tell {} to {word}", self.member),
            after: ANSWER_LIMIT,
        })??;
        if is_whole {
            return Ok(said);
        }
        self.has_ended = true;
        let exit_code = self.execution.exit.as_mut().await?;
        let failure = Failure::new(format!(
            "tell {} to {word}: it has ended with exit code {exit_code}, expected an answer",
            self.member
        ));
        Err(failure.output(String::from_utf8_lossy(&said.stderr).into_owned()))
    }

    /// Its last line.
    pub(crate) async fn conclude(self, word: &str) -> Result<Executed, EngineError> {
        self.send(word);
        self.execution.finish().await
    }

    /// Where nobody listens any more the answer says so.
    fn send(&self, word: &str) {
        let _ = self.words.send(Bytes::from(format!("{word}\n")));
    }
}

async fn answer(execution: &mut Execution, is_whole: impl Fn(&[u8]) -> bool) -> Result<(Said, bool), EngineError> {
    let mut said = Said::default();
    while let Some(chunk) = execution.output.next().await {
        match chunk? {
            OutputChunk::Stdout(part) => said.stdout.extend_from_slice(&part),
            OutputChunk::Stderr(part) => said.stderr.extend_from_slice(&part),
        }
        if is_whole(&said.stdout) {
            return Ok((said, true));
        }
    }
    Ok((said, false))
}
