//! What Prometheus and Alertmanager tell over HTTP.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use provisioner_core::secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Program;
use crate::http::{Reply, Site};

const LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn site(access: &Access<'_>, program: Program) -> Result<Site, Broken> {
    program.site(access, LIMIT).await.map_err(Broken::Unknown)
}

pub(super) async fn get(site: &Site, path: &str) -> Result<Reply, Broken> {
    site.get(path).await.map_err(Broken::Unknown)?.expect(200, &format!("GET {path}"))
}

pub(super) async fn answers(access: &Access<'_>, program: Program) -> Result<String, Broken> {
    let site = site(access, program).await?;
    get(&site, program.health()).await?;
    Ok(format!("{}: 200", program.health()))
}

/// Prometheus, by its API.
pub(super) struct Prometheus {
    site: Site,
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Vector {
    result: Vec<Sample>,
}

#[derive(Deserialize)]
pub(super) struct Sample {
    pub(super) metric: Labels,
    value: (f64, String),
}

/// The labels that every series of a target has; others are no business of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Labels {
    #[serde(default)]
    pub(super) job: String,
    #[serde(default)]
    pub(super) instance: String,
}

impl Sample {
    pub(super) fn value(&self) -> &str {
        &self.value.1
    }
}

impl Prometheus {
    pub(super) async fn of(access: &Access<'_>) -> Result<Self, Broken> {
        Ok(Self { site: site(access, Program::Prometheus).await? })
    }

    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Broken> {
        let reply = get(&self.site, path).await?;
        let answer: Answer<T> =
            serde_json::from_slice(&reply.body).map_err(|error| Broken::fail(format!("GET {path}: {error}")))?;
        Ok(answer.data)
    }

    /// The series that an expression selects, each with its present value.
    pub(super) async fn query(&self, expression: &str) -> Result<Vec<Sample>, Broken> {
        let vector: Vector = self.read(&with("/api/v1/query", expression)).await?;
        Ok(vector.result)
    }

    /// An expression as Prometheus writes it.
    pub(super) async fn formatted(&self, expression: &str) -> Result<String, Broken> {
        self.read(&with("/api/v1/format_query", expression)).await
    }
}

fn with(path: &str, query: &str) -> String {
    let encoded = secret::url_encoded(query);
    format!("{path}?query={encoded}")
}

/// Both run with the files that lie in them, not with those of before a reload that they refused.
pub(super) async fn loaded(access: &Access<'_>) -> Result<String, Broken> {
    for program in [Program::Prometheus, Program::Alertmanager] {
        let site = site(access, program).await?;
        let metrics = get(&site, "/metrics").await?.text();
        let name = format!("{}_config_last_reload_successful", program.name());
        match sum(&metrics, &name) {
            Some(1.0) => {}
            Some(found) => return Err(Broken::fail(format!("{name} {found}, expected 1"))),
            None => return Err(Broken::fail(format!("{} does not tell {name}", program.member()))),
        }
    }
    Ok("by Prometheus and Alertmanager".to_owned())
}

/// What all series of one name come to, in Prometheus's text format; `None` where there is none.
pub(super) fn sum(metrics: &str, name: &str) -> Option<f64> {
    let of_name = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = if rest.starts_with('{') { rest.rsplit_once("} ")?.1 } else { rest.strip_prefix(' ')? };
        value.trim().parse::<f64>().ok()
    });
    of_name.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_are_added_and_longer_names_are_others() {
        let text = "# HELP a x\na{b=\"1\"} 2\na{b=\"} 7\"} 3\na_total 9\nc 1\n";
        assert_eq!([sum(text, "a"), sum(text, "c"), sum(text, "d")], [Some(5.0), Some(1.0), None]);
    }
}
