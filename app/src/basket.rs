//! What a customer asks for, checked and merged before any database sees it.

use std::{collections::BTreeMap, fmt::Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAX_LINES: usize = 50;
const MAX_QTY: i64 = 1_000;

/// The order request as it comes over the wire.
#[derive(Debug, Deserialize)]
pub(crate) struct OrderRequest {
    pub(crate) email: String,
    pub(crate) items: Vec<RequestLine>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RequestLine {
    pub(crate) sku: String,
    pub(crate) qty: i64,
}

/// A fault in the request and where it is.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) message: String,
}

/// One line per SKU. Two lines with the same SKU would each pass the stock check alone and oversell together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Basket {
    pub(crate) email: String,
    pub(crate) lines: BTreeMap<String, i32>,
}

impl Basket {
    /// All faults at once, so that a client needs one round to mend its request.
    pub(crate) fn new(request: OrderRequest) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |path: String, message: &str| faults.push(Fault { path, message: message.to_owned() });
        if !looks_like_email(&request.email) {
            fault("email".to_owned(), "expected an address such as ada@example.org");
        }
        if request.items.is_empty() || request.items.len() > MAX_LINES {
            fault("items".to_owned(), &format!("found {} lines, expected 1 to {MAX_LINES}", request.items.len()));
        }
        let mut lines = BTreeMap::new();
        for (index, line) in request.items.into_iter().take(MAX_LINES).enumerate() {
            if line.sku.is_empty() || line.sku.len() > 64 || line.sku.contains(char::is_control) {
                fault(format!("items[{index}].sku"), "expected 1 to 64 printable characters");
            }
            match i32::try_from(line.qty) {
                Ok(qty) if (1..=MAX_QTY).contains(&line.qty) => *lines.entry(line.sku).or_insert(0) += qty,
                _ => fault(format!("items[{index}].qty"), &format!("found {}, expected 1 to {MAX_QTY}", line.qty)),
            }
        }
        if faults.is_empty() { Ok(Self { email: request.email, lines }) } else { Err(faults) }
    }

    /// Equal for requests that mean the same, whatever their order of lines or spacing.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.email.as_bytes());
        for (sku, qty) in &self.lines {
            // Neither an e-mail nor a SKU contains a control character, so the parts cannot run together.
            hash.update([0]);
            hash.update(sku.as_bytes());
            hash.update([0]);
            hash.update(qty.to_be_bytes());
        }
        hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

fn looks_like_email(text: &str) -> bool {
    let printable = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
    let parts: Vec<&str> = text.split('@').collect();
    text.len() <= 254 && printable && matches!(parts.as_slice(), [user, host] if !user.is_empty() && !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(email: &str, items: &[(&str, i64)]) -> OrderRequest {
        let items = items.iter().map(|&(sku, qty)| RequestLine { sku: sku.to_owned(), qty }).collect();
        OrderRequest { email: email.to_owned(), items }
    }

    #[test]
    fn lines_of_one_sku_merge() {
        let basket = Basket::new(request("a@b", &[("X", 2), ("A", 1), ("X", 3)])).unwrap();
        assert_eq!(basket.lines, BTreeMap::from([("A".to_owned(), 1), ("X".to_owned(), 5)]));
    }

    #[test]
    fn every_fault_is_named() {
        let faults =
            Basket::new(request("nobody", &[("", 1), ("A", 0), ("B", 1_001), ("C", -5), ("D", i64::MAX)])).unwrap_err();
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, ["email", "items[0].sku", "items[1].qty", "items[2].qty", "items[3].qty", "items[4].qty"]);
    }

    #[test]
    fn the_number_of_lines_is_bounded() {
        assert_eq!(Basket::new(request("a@b", &[])).unwrap_err()[0].path, "items");
        assert_eq!(Basket::new(request("a@b", &[("A", 1); 51])).unwrap_err()[0].path, "items");
        assert_eq!(Basket::new(request("a@b", &[("A", 1_000); 50])).unwrap().lines["A"], 50_000);
    }

    #[test]
    fn emails() {
        for good in ["a@b", "ada.lovelace+shop@example.org"] {
            assert!(looks_like_email(good), "{good}");
        }
        for bad in ["", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\r\nBcc: x@y"] {
            assert!(!looks_like_email(bad), "{bad}");
        }
    }

    #[test]
    fn fingerprint_follows_the_meaning_not_the_spelling() {
        let print = |email: &str, items: &[(&str, i64)]| Basket::new(request(email, items)).unwrap().fingerprint();
        let base = print("a@b", &[("A", 1), ("B", 2)]);
        assert_eq!(base.len(), 64);
        assert_eq!(base, print("a@b", &[("B", 2), ("A", 1)]));
        assert_eq!(base, print("a@b", &[("B", 1), ("A", 1), ("B", 1)]));
        assert_ne!(base, print("a@b", &[("A", 2), ("B", 2)]));
        assert_ne!(base, print("a@b", &[("A", 1), ("C", 2)]));
        assert_ne!(base, print("a@c", &[("A", 1), ("B", 2)]));
    }
}
