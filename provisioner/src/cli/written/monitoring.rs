//! The section of what watches the stack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use provisioner_core::manifest::{Monitoring, Pager};
use serde::Serialize;

use super::WrittenService;

#[derive(Serialize)]
pub(super) struct WrittenMonitoring<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    retention: &'a str,
    scrape_seconds: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    thresholds: &'a BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pagerduty: Option<WrittenPager<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opsgenie: Option<WrittenPager<'a>>,
}

#[derive(Serialize)]
struct WrittenPager<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
}

impl<'a> From<&'a Monitoring> for WrittenMonitoring<'a> {
    fn from(monitoring: &'a Monitoring) -> Self {
        let Monitoring { service, retention, scrape_seconds, thresholds, webhook, pagerduty, opsgenie } = monitoring;
        Self {
            service: service.into(),
            retention,
            scrape_seconds: *scrape_seconds,
            thresholds,
            webhook: webhook.as_deref(),
            pagerduty: pagerduty.as_ref().map(Into::into),
            opsgenie: opsgenie.as_ref().map(Into::into),
        }
    }
}

impl<'a> From<&'a Pager> for WrittenPager<'a> {
    fn from(Pager { key, url }: &'a Pager) -> Self {
        Self { key_file: key.files.first().map(PathBuf::as_path), url: url.as_deref() }
    }
}
