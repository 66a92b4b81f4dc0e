//! What the clients of systems that speak HTTP share.

use std::error::Error;

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use reqwest::{Url, header::HeaderValue};

/// User and password as a header; the URL is left without them, so that they never get near an error text or a log.
pub(crate) fn take_credentials(url: &mut Url) -> anyhow::Result<Option<HeaderValue>> {
    if url.username().is_empty() {
        return Ok(None);
    }
    let plain = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let credentials = [plain(url.username()), plain(url.password().unwrap_or_default())].join(&b':');
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(credentials)))
        .context("make the credentials of a URL a header")?;
    value.set_sensitive(true);
    // These fail only for URLs without a host, which have no user either.
    let _ = (url.set_username(""), url.set_password(None));
    Ok(Some(value))
}

/// The URL as one of a folder, below which others are joined.
pub(crate) fn as_folder(url: &mut Url) {
    url.set_query(None);
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
}

/// The library's own text is only the outermost: "error sending request".
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
