//! One function for each kind of text from outside. None may panic, and what one takes apart fits together again.
//!
//! The fuzzer looks for texts that break them (fuzz/); a test of random texts keeps them working until then.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    cursor::{Cursor, Sort},
    http, messaging, search, traces,
    webhooks::{Secrets, Signed},
};

pub type Parse = fn(&[u8]);

/// Each with its name.
pub const ALL: [(&str, Parse); 12] = [
    ("cursors", cursors),
    ("cookies", cookies),
    ("authorization", authorization),
    ("conditions", conditions),
    ("idempotency_key", idempotency_key),
    ("read_after", read_after),
    ("traceparent", traceparent),
    ("queries", queries),
    ("bodies", bodies),
    ("webhooks", webhooks),
    ("messages", messages),
    ("search_answers", search_answers),
];

/// As it is, and as what is inside a cursor: nobody happens on base64 that means something.
pub fn cursors(bytes: &[u8]) {
    cursor(&URL_SAFE_NO_PAD.encode(bytes));
    if let Ok(text) = std::str::from_utf8(bytes) {
        cursor(text);
    }
}

fn cursor(text: &str) {
    for sort in [Sort::Id, Sort::PriceAsc, Sort::PriceDesc] {
        if let Ok(cursor) = Cursor::decode(text, sort) {
            assert_eq!(Cursor::decode(&cursor.encode(), sort), Ok(cursor));
        }
    }
    http::fuzzing::cursors(text);
    search::fuzzing::cursors(text);
}

pub fn cookies(bytes: &[u8]) {
    http::fuzzing::cookies(bytes);
}

pub fn authorization(bytes: &[u8]) {
    http::fuzzing::authorization(bytes);
}

pub fn conditions(bytes: &[u8]) {
    http::fuzzing::conditions(bytes);
}

pub fn idempotency_key(bytes: &[u8]) {
    http::fuzzing::idempotency_key(bytes);
}

pub fn read_after(bytes: &[u8]) {
    http::fuzzing::read_after(bytes);
}

/// As it is, and with what a random text would never hit upon.
pub fn traceparent(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    traces::fuzz(text);
    traces::fuzz(&format!("00-0af7651916cd43dd8448eb211c80319c-{text}"));
    traces::fuzz(&format!("{text}-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01{text}"));
}

pub fn queries(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        http::fuzzing::queries(text);
    }
}

pub fn bodies(bytes: &[u8]) {
    http::fuzzing::bodies(bytes);
}

/// Headers and body of a webhook, a line each. Nobody signs without the key.
pub fn webhooks(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Whatever is in a file of secrets, it is read or refused.
    if let Ok(secrets) = text.parse::<Secrets>() {
        assert!(!format!("{secrets:?}").contains("whsec_"));
    }
    let Ok(secrets) = "pay=a key of sixteen bytes or more".replace(' ', "_").parse::<Secrets>() else { return };
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (id, timestamp, signatures, body) = (line(), line(), line(), line().as_bytes());
    assert!(secrets.verify("pay", &Signed { id, timestamp, signatures, body }, 1_731_705_121).is_err());
}

pub fn messages(bytes: &[u8]) {
    use messaging::envelope::Envelope;
    let Ok(envelope) = Envelope::decode(bytes) else { return };
    let again = serde_json::to_vec(&envelope).map(|bytes| Envelope::decode(&bytes));
    assert!(matches!(again, Ok(Ok(again)) if (again.id, &again.topic) == (envelope.id, &envelope.topic)));
}

pub fn search_answers(bytes: &[u8]) {
    search::fuzzing::answers(bytes);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{ProptestConfig, any, prop_oneof, proptest};
    use proptest::{collection::vec, strategy::Strategy};

    use super::ALL;

    /// Among the noise what parsers look for, or they would never get beyond the first byte.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let words = "(session=|Bearer |W/|\"|\\{|\\}|\\[|\\]|:|,|;|=|&|%|sort=price_asc|cursor=|b3JkZXJzOjc|v1,|whsec_|-|[0-9]{1,20}|[A-Za-z]{1,8}){0,12}";
        prop_oneof![
            vec(any::<u8>(), 0..80),
            words.prop_map(String::into_bytes),
            "\\PC{0,60}".prop_map(String::into_bytes)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn no_text_from_outside_breaks_a_parser(bytes in texts()) {
            for (_, parse) in ALL {
                parse(&bytes);
            }
        }
    }

    #[test]
    fn the_fuzzer_has_a_target_for_each_of_them() {
        let targets = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/fuzz_targets")).unwrap();
        let files: BTreeSet<String> = targets.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(files, ALL.iter().map(|(name, _)| format!("{name}.rs")).collect());
    }
}
