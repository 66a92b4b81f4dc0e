//! SMTP as far as checks need it, each conversation bounded.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

const GREETING_LIMIT: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(5);
const LINES_MAX: usize = 64;

/// The server's first line.
pub(super) async fn greeting(address: SocketAddr) -> Result<String, String> {
    bounded(GREETING_LIMIT, async {
        let mut talk = Talk::with(connect(address).await?);
        talk.expect("220").await.map(first)
    })
    .await
}

/// What the server offers after EHLO, with its greeting first.
pub(super) async fn offers(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Vec<String>, String> {
    bounded(LIMIT, async {
        let mut talk = Talk::with(stream);
        let mut offers = vec![talk.expect("220").await.map(first)?];
        offers.extend(talk.say("EHLO provisioner.invalid", "250").await?);
        talk.say("QUIT", "221").await?;
        Ok(offers)
    })
    .await
}

pub(super) struct Letter<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) message_id: &'a str,
    pub(super) subject: &'a str,
}

pub(super) async fn send(address: SocketAddr, letter: &Letter<'_>) -> Result<String, String> {
    let Letter { from, to, message_id, subject } = letter;
    bounded(LIMIT, async {
        let mut talk = Talk::with(connect(address).await?);
        talk.expect("220").await?;
        talk.say("EHLO provisioner.invalid", "250").await?;
        talk.say(&format!("MAIL FROM:<{from}>"), "250").await?;
        talk.say(&format!("RCPT TO:<{to}>"), "250").await?;
        talk.say("DATA", "354").await?;
        let text = format!(
            "From: <{from}>\r\nTo: <{to}>\r\nSubject: {subject}\r\nMessage-ID: <{message_id}>\r\n\r\nA check.\r\n."
        );
        let taken = talk.say(&text, "250").await.map(first)?;
        talk.say("QUIT", "221").await?;
        Ok(taken)
    })
    .await
}

pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| error.to_string())
}

async fn bounded<T>(limit: Duration, talk: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(limit, talk).await.map_err(|_| format!("no answer within {} ms", limit.as_millis()))?
}

fn first(lines: Vec<String>) -> String {
    lines.into_iter().next().unwrap_or_default()
}

struct Talk<S> {
    stream: BufStream<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    fn with(stream: S) -> Self {
        Self { stream: BufStream::new(stream) }
    }

    async fn say(&mut self, line: &str, code: &str) -> Result<Vec<String>, String> {
        let said = async {
            self.stream.write_all(line.as_bytes()).await?;
            self.stream.write_all(b"\r\n").await?;
            self.stream.flush().await
        };
        said.await.map_err(|error| error.to_string())?;
        let verb = line.split_whitespace().next().unwrap_or_default();
        self.expect(code).await.map_err(|error| format!("{verb}: {error}"))
    }

    /// The lines of one answer without their code.
    async fn expect(&mut self, code: &str) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        while lines.len() < LINES_MAX {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line).await.map_err(|error| error.to_string())?;
            if read == 0 {
                return Err(format!("the server hung up, expected {code}"));
            }
            let line = line.trim_end();
            let Some(rest) = line.strip_prefix(code) else { return Err(format!("{line}, expected {code}")) };
            match rest.strip_prefix('-') {
                Some(more) => lines.push(more.to_owned()),
                None => {
                    lines.push(rest.trim_start().to_owned());
                    return Ok(lines);
                }
            }
        }
        Err(format!("more than {LINES_MAX} lines, expected an end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn offered(answers: &'static [u8]) -> Result<Vec<String>, String> {
        let (client, mut server) = tokio::io::duplex(1024);
        let server = tokio::spawn(async move {
            server.write_all(answers).await.unwrap();
            // Holds the connection until the client is done.
            let mut said = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut server, &mut said).await.unwrap();
        });
        let offered = offers(client).await;
        server.abort();
        offered
    }

    #[tokio::test]
    async fn answers_of_several_lines_are_read_to_their_end() {
        let answers = b"220 mx ESMTP\r\n250-mx\r\n250-STARTTLS\r\n250 SIZE 100\r\n221 bye\r\n";
        assert_eq!(offered(answers).await.unwrap(), ["mx ESMTP", "mx", "STARTTLS", "SIZE 100"]);
        assert_eq!(offered(b"554 go away\r\n").await.unwrap_err(), "554 go away, expected 220");
    }
}
