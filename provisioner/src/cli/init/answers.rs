//! What the flags leave open is asked where somebody can answer.

use provisioner_core::name::StackName;

use super::{InitArgs, Optional, words};
use crate::cli::Call;
use crate::cli::exit::{Exit, Stop};

/// The name of the stack, and arguments that leave nothing open.
pub(super) async fn complete(call: &Call<'_>, arguments: &InitArgs) -> Result<(String, InitArgs), Stop> {
    let mut arguments = arguments.clone();
    let name = call.settings.name.clone().map(String::from);
    let is_named = arguments.app_binary.is_some() || arguments.app_image.is_some();
    if is_named || !call.settings.interactive {
        if !is_named {
            let message =
                "init: no app is named, expected --app-image IMAGE with --serve COMMAND, or --app-binary FILE";
            return Err(Stop::new(Exit::Usage, message).hint("on a terminal it asks"));
        }
        return Ok((name.unwrap_or_else(|| proposed(call)), arguments));
    }
    let name = match name {
        Some(name) => name,
        None => {
            let read = |text: &str| StackName::new(text).map(String::from).map_err(|error| error.to_string());
            ask(call, "Name of the stack", &proposed(call), read).await?
        }
    };
    let app =
        ask(call, "App: an image, or a static binary by its path (with a /, beginning with . or /)", "", |text| {
            match text {
                "" => Err("expected an image or a path".to_owned()),
                text => Ok(text.to_owned()),
            }
        })
        .await?;
    if app.starts_with(['.', '/']) {
        arguments.app_binary = Some(app);
    } else {
        arguments.app_image = Some(app);
        arguments.serve = Some(ask(call, "Command line by which it serves", "", words).await?);
        arguments.port =
            ask(call, "Port on which it serves", "8000", |text| text.parse().map_err(|_| "expected a port".to_owned()))
                .await?;
        let path = |text: &str| {
            if text.starts_with('/') { Ok(text.to_owned()) } else { Err("expected a path such as /healthz".to_owned()) }
        };
        arguments.health = ask(call, "Path that answers 200 when it can serve", "/", path).await?;
    }
    for (system, question) in [
        (Optional::Rabbitmq, "A message broker (RabbitMQ)"),
        (Optional::Elasticsearch, "Search (Elasticsearch, three nodes)"),
        (Optional::Mail, "A mailbox that shows every mail"),
        (Optional::Monitoring, "Monitoring and alerts (Prometheus, Alertmanager)"),
        (Optional::Tls, "HTTPS by an authority of the stack's own"),
    ] {
        let is_wanted = ask(call, question, "yes", |text| match text {
            "yes" | "y" => Ok(true),
            "no" | "n" => Ok(false),
            _ => Err("expected yes or no".to_owned()),
        })
        .await?;
        if !is_wanted {
            arguments.without.push(system);
        }
    }
    Ok((name, arguments))
}

/// The directory's own name where it is a name for a stack.
fn proposed(call: &Call<'_>) -> String {
    let directory = call.settings.directory.file_name().map(|name| name.to_string_lossy().to_lowercase());
    directory.filter(|name| StackName::new(name.as_str()).is_ok()).unwrap_or_else(|| super::NAMED.to_owned())
}

/// Asks until the answer can be read; nothing stands for `default`.
async fn ask<T>(
    call: &Call<'_>,
    question: &str,
    default: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Stop> {
    let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
    loop {
        // Somebody who cannot read the question gives no answer, which ends it below.
        let _ = call.printer.stderr(format!("{question}{shown}: ").as_bytes());
        let Some(answer) = call.answer().await else {
            return Err(
                Stop::new(Exit::Refused, "init: no answer").hint("name everything with flags: provisioner init --help")
            );
        };
        match read(if answer.is_empty() { default } else { &answer }) {
            Ok(read) => return Ok(read),
            Err(problem) => {
                let _ = call.printer.stderr(format!("  {answer:?}: {problem}\n").as_bytes());
            }
        }
    }
}
