//! Flags and environment, resolved once. Nothing else in the provisioner reads the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use provisioner_core::manifest::Kubernetes;
use provisioner_core::name::StackName;

use super::Global;
use super::exit::{Exit, Stop};
use crate::streams::Terminals;

/// The process's variables and working directory, as they were at the start.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub variables: BTreeMap<String, String>,
    pub directory: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Human,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// `tty` on a terminal, `plain` elsewhere
    Auto,
    Tty,
    Plain,
    Json,
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorMode {
    Auto,
    Always,
    Never,
}

/// Where the manifest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestSource {
    Named(String),
    File(PathBuf),
    /// Neither flag nor variable says.
    Nowhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpPort {
    /// What the stack is published on already, else one that is free.
    Auto,
    Fixed(u16),
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub manifest: ManifestSource,
    /// Flags that repeat the choice of stack, for commands that are proposed to the user.
    pub selection: String,
    pub name: Option<StackName>,
    /// Of the kubeconfig, and the place in the cluster, instead of the manifest's.
    pub context: Option<String>,
    pub namespace: Option<String>,
    pub http_port: Option<HttpPort>,
    pub format: Format,
    pub json_into: Option<PathBuf>,
    pub progress: ProgressMode,
    /// `None`: the verb's own default.
    pub timeout: Option<Duration>,
    pub lock_timeout: Duration,
    pub yes: bool,
    pub verbose: bool,
    pub color: bool,
    /// Somebody sits at the terminal and can be asked.
    pub interactive: bool,
    pub stdin_is_terminal: bool,
    pub stdout_is_terminal: bool,
    pub directory: PathBuf,
    pub environment: Environment,
    /// The words after `provisioner`, for the lock's holder.
    pub command: String,
}

impl Environment {
    pub fn of_process() -> Self {
        let text = |value: std::ffi::OsString| value.into_string().ok();
        Self {
            variables: std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect(),
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
        }
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn is_ci(&self) -> bool {
        self.get("CI").is_some_and(|value| value != "false" && value != "0")
    }
}

impl Settings {
    pub fn resolve(
        global: &Global,
        command: String,
        environment: &Environment,
        terminals: Terminals,
    ) -> Result<Self, Stop> {
        let manifest = match (&global.file, &global.environment, environment.get("PROVISIONER_ENV")) {
            (Some(file), ..) => ManifestSource::File(environment.directory.join(file)),
            (None, Some(name), _) => ManifestSource::Named(name.clone()),
            (None, None, Some(name)) => ManifestSource::Named(name.to_owned()),
            (None, None, None) => ManifestSource::Nowhere,
        };
        let progress = match global.progress {
            ProgressMode::Auto if terminals.stderr && environment.get("TERM") != Some("dumb") => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            chosen => chosen,
        };
        let name = global.name.clone().map(StackName::new).transpose();
        if let Some(wrong) = global.namespace.as_deref().filter(|name| !Kubernetes::is_namespace(name)) {
            let expected = "1 to 63 lower-case letters, digits or hyphens";
            return Err(Stop::new(Exit::Usage, format!("--namespace: found {wrong:?}, expected {expected}")));
        }
        Ok(Self {
            selection: selection(global),
            manifest,
            name: name.map_err(|error| Stop::new(Exit::Usage, format!("--name: {error}")))?,
            context: global.context.clone(),
            namespace: global.namespace.clone(),
            http_port: global.http_port,
            format: global.output,
            json_into: global.json_into.as_ref().map(|file| environment.directory.join(file)),
            progress,
            timeout: global.timeout,
            lock_timeout: global.lock_timeout,
            yes: global.yes,
            verbose: global.verbose,
            color: match global.color {
                ColorMode::Auto => terminals.stdout && environment.get("NO_COLOR").is_none(),
                ColorMode::Always => true,
                ColorMode::Never => false,
            },
            stdin_is_terminal: terminals.stdin,
            stdout_is_terminal: terminals.stdout,
            interactive: terminals.stdin && terminals.stderr && !environment.is_ci(),
            directory: environment.directory.clone(),
            environment: environment.clone(),
            command,
        })
    }

    /// The cluster that the command line alone names.
    pub(crate) fn cluster(&self) -> Option<Kubernetes> {
        let context = self.context.clone()?;
        Some(Kubernetes { context: Some(context), namespace: self.namespace.clone(), ..Kubernetes::default() })
    }

    /// The same wishes for a stack of another name, at ports of its own, told in whole lines and asking nobody.
    pub(crate) fn for_stack(&self, name: StackName) -> Self {
        let selection = match self.name {
            Some(_) => self.selection.clone(),
            None => format!("{} --name {name}", self.selection),
        };
        Self {
            selection,
            name: Some(name),
            http_port: Some(self.http_port.unwrap_or(HttpPort::Auto)),
            format: Format::Human,
            json_into: None,
            progress: ProgressMode::Plain,
            yes: true,
            verbose: true,
            color: false,
            interactive: false,
            ..self.clone()
        }
    }

    /// A hint with the flags that choose this stack, where it is a command of ours.
    pub fn complete(&self, hint: &str) -> String {
        match hint.strip_prefix("provisioner ") {
            Some(words) if !hint.contains("--env") && !hint.contains("--file") => self.again(words),
            _ => hint.to_owned(),
        }
    }

    /// A command line for this very stack: `provisioner verify --env dev`.
    pub fn again(&self, words: &str) -> String {
        format!("provisioner {words}{}", self.selection)
    }
}

fn selection(global: &Global) -> String {
    let mut flags = String::new();
    match (&global.file, &global.environment) {
        (Some(file), _) => flags.push_str(&format!(" --file {}", file.display())),
        (None, Some(name)) => flags.push_str(&format!(" --env {name}")),
        (None, None) => {}
    }
    let chosen = [("name", &global.name), ("context", &global.context), ("namespace", &global.namespace)];
    for (flag, value) in chosen.into_iter().filter_map(|(flag, value)| Some((flag, value.as_ref()?))) {
        flags.push_str(&format!(" --{flag} {value}"));
    }
    flags
}

/// The directory `manifests` nearest to `directory`, upwards.
pub fn manifests_directory(directory: &Path) -> Option<PathBuf> {
    directory.ancestors().map(|ancestor| ancestor.join("manifests")).find(|candidate| candidate.is_dir())
}

/// `90s`, `5m`, `1h30m`; a unit is required so that nobody has to guess.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a duration, expected a number with a unit: 90s, 5m or 1h30m"))
}

pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("a run without an end is not offered, expected at least 1s".to_owned()),
        duration => Ok(duration),
    }
}

pub fn parse_http_port(text: &str) -> Result<HttpPort, String> {
    match text {
        "auto" | "0" => Ok(HttpPort::Auto),
        number => match number.parse::<u16>() {
            Ok(port) => Ok(HttpPort::Fixed(port)),
            Err(_) => Err(format!("{number:?} is not a port, expected 1 to 65535 or `auto`")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "90", "s", "5x", "-1s", "99999999999999999999s", "18446744073709551615h", "1m30"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_endless_timeout_is_refused() {
        assert!(parse_timeout("0s").is_err());
    }

    #[test]
    fn zero_and_auto_ask_for_a_free_port() {
        assert_eq!(parse_http_port("auto"), Ok(HttpPort::Auto));
        assert_eq!(parse_http_port("0"), Ok(HttpPort::Auto));
        assert_eq!(parse_http_port("8081"), Ok(HttpPort::Fixed(8081)));
        assert!(parse_http_port("99999").is_err());
    }
}
