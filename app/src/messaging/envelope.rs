//! What a message says, whatever it is about.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The only version there is; another one means another shape.
pub(crate) const VERSION: u16 = 1;

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Envelope {
    pub(crate) id: Uuid,
    #[serde(rename = "type")]
    pub(crate) topic: String,
    pub(crate) v: u16,
    pub(crate) occurred_at: String,
    pub(crate) aggregate: Aggregate,
    pub(crate) traceparent: Option<String>,
    /// Of the request that it came from; it is in the log of whoever deals with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
    pub(crate) data: Value,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Aggregate {
    pub(crate) id: String,
    pub(crate) version: i64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvelopeError {
    #[error("read the envelope: {0}")]
    Shape(#[from] serde_json::Error),
    #[error("found envelope version {0}, expected {VERSION}")]
    Version(u16),
}

impl Envelope {
    pub(crate) fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self = serde_json::from_slice(body)?;
        if envelope.v == VERSION { Ok(envelope) } else { Err(EnvelopeError::Version(envelope.v)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"id":"0193e3a8-0000-7000-8000-000000000001","type":"search.index_product","v":1,"occurred_at":"2026-11-22T18:00:00.000001Z","aggregate":{"id":"7","version":3},"traceparent":null,"data":{"product_id":7}}"#;

    #[test]
    fn the_wire_form_is_fixed() {
        let envelope = Envelope::decode(BODY.as_bytes()).unwrap();
        assert_eq!((envelope.topic.as_str(), &envelope.data["product_id"]), ("search.index_product", &7.into()));
        assert_eq!(serde_json::to_string(&envelope).unwrap(), BODY);
    }

    #[test]
    fn other_versions_and_shapes_are_refused() {
        let newer = BODY.replace("\"v\":1", "\"v\":2");
        assert_eq!(Envelope::decode(newer.as_bytes()).unwrap_err().to_string(), "found envelope version 2, expected 1");
        for bad in ["", "[]", "{}", "not json"] {
            assert!(matches!(Envelope::decode(bad.as_bytes()), Err(EnvelopeError::Shape(_))), "{bad}");
        }
    }
}
