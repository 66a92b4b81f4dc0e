//! What a customer asks for, checked and merged before any database sees it.

use std::{collections::BTreeMap, fmt::Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) const MAX_LINES: usize = 50;
pub(crate) const MAX_QTY: i32 = 1_000;

/// The order request as it comes over the wire.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
pub(crate) struct OrderRequest {
    #[serde(default)]
    pub(crate) email: Option<String>,
    #[serde(default)]
    pub(crate) items: Option<Vec<RequestLine>>,
    #[serde(default)]
    pub(crate) from_cart: bool,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
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

impl Fault {
    pub(crate) fn new(path: &str, message: &str) -> Self {
        Self { path: path.to_owned(), message: message.to_owned() }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Basket {
    pub(crate) email: String,
    pub(crate) lines: Lines,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lines {
    /// One per SKU. Two lines with the same SKU would each pass the stock check alone and oversell together.
    Given(BTreeMap<String, i32>),
    /// Whatever is in the cart when the order is placed.
    Cart,
}

impl Basket {
    /// All faults at once, so that a client needs one round to mend its request. `account`: the address of whoever is
    /// logged in.
    pub(crate) fn new(request: OrderRequest, account: Option<&str>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let email = request.email.as_deref().or(account).unwrap_or_default().to_owned();
        if !looks_like_email(&email) {
            faults.push(Fault::new("email", "expected an address such as ada@example.org"));
        }
        let lines = match (request.from_cart, request.items) {
            (false, items) => Lines::Given(merge(items.unwrap_or_default(), &mut faults)),
            (true, None) => Lines::Cart,
            (true, Some(_)) => {
                faults.push(Fault::new("items", "found items besides from_cart, expected one of them"));
                Lines::Cart
            }
        };
        if lines == Lines::Cart && account.is_none() {
            faults.push(Fault::new("from_cart", "a guest has no cart: log in"));
        }
        if faults.is_empty() { Ok(Self { email, lines }) } else { Err(faults) }
    }

    /// Equal for requests that mean the same, whatever their order of lines or spacing. Not by what is in the cart: the
    /// order that it stands for empties it, and may have to be asked for again.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.email.as_bytes());
        // Neither an e-mail nor a SKU contains a control character, so the parts cannot run together.
        match &self.lines {
            Lines::Given(lines) => {
                for (sku, qty) in lines {
                    hash.update([0]);
                    hash.update(sku.as_bytes());
                    hash.update([0]);
                    hash.update(qty.to_be_bytes());
                }
            }
            Lines::Cart => hash.update([0, 1]),
        }
        hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Faults of the lines go to `faults`; what is returned counts only if there are none.
pub(crate) fn merge(items: Vec<RequestLine>, faults: &mut Vec<Fault>) -> BTreeMap<String, i32> {
    let found = items.len();
    if found == 0 || found > MAX_LINES {
        faults.push(Fault::new("items", &format!("found {found} lines, expected 1 to {MAX_LINES}")));
    }
    let mut lines = BTreeMap::new();
    for (index, line) in items.into_iter().take(MAX_LINES).enumerate() {
        if !looks_like_sku(&line.sku) {
            faults.push(Fault::new(&format!("items[{index}].sku"), "expected 1 to 64 printable characters"));
        }
        match quantity(line.qty) {
            Ok(qty) => *lines.entry(line.sku).or_insert(0) += qty,
            Err(why) => faults.push(Fault::new(&format!("items[{index}].qty"), &why)),
        }
    }
    lines
}

pub(crate) fn quantity(found: i64) -> Result<i32, String> {
    let qty = i32::try_from(found).ok().filter(|qty| (1..=MAX_QTY).contains(qty));
    qty.ok_or_else(|| format!("found {found}, expected 1 to {MAX_QTY}"))
}

pub(crate) fn looks_like_sku(text: &str) -> bool {
    (1..=64).contains(&text.len()) && !text.contains(char::is_control)
}

pub(crate) fn looks_like_email(text: &str) -> bool {
    let printable = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
    let parts: Vec<&str> = text.split('@').collect();
    text.len() <= 254 && printable && matches!(parts.as_slice(), [user, host] if !user.is_empty() && !host.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, Strategy, prop_assert_eq, proptest};

    use super::*;

    fn request(email: &str, items: &[(&str, i64)]) -> OrderRequest {
        let items = items.iter().map(|&(sku, qty)| RequestLine { sku: sku.to_owned(), qty }).collect();
        OrderRequest { email: Some(email.to_owned()), items: Some(items), from_cart: false }
    }

    fn lines(basket: Basket) -> BTreeMap<String, i32> {
        let Lines::Given(lines) = basket.lines else { panic!("expected lines") };
        lines
    }

    fn paths(faults: &[Fault]) -> Vec<&str> {
        faults.iter().map(|fault| fault.path.as_str()).collect()
    }

    #[test]
    fn lines_of_one_sku_merge() {
        let basket = Basket::new(request("a@b", &[("X", 2), ("A", 1), ("X", 3)]), None).unwrap();
        assert_eq!(lines(basket), BTreeMap::from([("A".to_owned(), 1), ("X".to_owned(), 5)]));
    }

    #[test]
    fn every_fault_is_named() {
        let asked = request("nobody", &[("", 1), ("A", 0), ("B", 1_001), ("C", -5), ("D", i64::MAX)]);
        let faults = Basket::new(asked, None).unwrap_err();
        let expected = ["email", "items[0].sku", "items[1].qty", "items[2].qty", "items[3].qty", "items[4].qty"];
        assert_eq!(paths(&faults), expected);
    }

    #[test]
    fn the_number_of_lines_is_bounded() {
        assert_eq!(Basket::new(request("a@b", &[]), None).unwrap_err()[0].path, "items");
        assert_eq!(Basket::new(request("a@b", &[("A", 1); 51]), None).unwrap_err()[0].path, "items");
        assert_eq!(lines(Basket::new(request("a@b", &[("A", 1_000); 50]), None).unwrap())["A"], 50_000);
    }

    #[test]
    fn an_account_has_an_address_and_a_cart_and_a_guest_has_neither() {
        let basket = |request: OrderRequest, account| {
            Basket::new(request, account)
                .map_err(|faults| faults.into_iter().map(|fault| fault.path).collect::<Vec<_>>().join(" "))
        };
        let cart = || OrderRequest { from_cart: true, ..OrderRequest::default() };
        let own = Basket { email: "ada@b".to_owned(), lines: Lines::Cart };
        assert_eq!(basket(cart(), Some("ada@b")), Ok(own));
        assert_eq!(basket(cart(), None), Err("email from_cart".to_owned()));
        assert_eq!(basket(OrderRequest::default(), None), Err("email items".to_owned()));
        let other = OrderRequest { email: Some("eve@b".to_owned()), ..cart() };
        assert_eq!(basket(other, Some("ada@b")).unwrap().email, "eve@b");
        let both = OrderRequest { from_cart: true, ..request("a@b", &[("A", 1)]) };
        assert_eq!(basket(both, Some("ada@b")), Err("items".to_owned()));
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
        let print =
            |email: &str, items: &[(&str, i64)]| Basket::new(request(email, items), None).unwrap().fingerprint();
        let base = print("a@b", &[("A", 1), ("B", 2)]);
        assert_eq!(base.len(), 64);
        assert_eq!(base, print("a@b", &[("B", 2), ("A", 1)]));
        assert_eq!(base, print("a@b", &[("B", 1), ("A", 1), ("B", 1)]));
        assert_ne!(base, print("a@b", &[("A", 2), ("B", 2)]));
        assert_ne!(base, print("a@b", &[("A", 1), ("C", 2)]));
        assert_ne!(base, print("a@c", &[("A", 1), ("B", 2)]));
    }

    fn some_lines() -> impl Strategy<Value = Vec<(String, i64)>> {
        proptest::collection::vec(("[A-E]", 1..=i64::from(MAX_QTY)), 1..=MAX_LINES)
    }

    fn basket(lines: &[(String, i64)]) -> Basket {
        let lines: Vec<(&str, i64)> = lines.iter().map(|(sku, qty)| (sku.as_str(), *qty)).collect();
        Basket::new(request("a@b", &lines), None).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn merging_loses_no_piece_and_adds_none(asked in some_lines()) {
            let merged = lines(basket(&asked));
            for sku in ["A", "B", "C", "D", "E"] {
                let wanted: i64 = asked.iter().filter(|(asked, _)| asked == sku).map(|(_, qty)| qty).sum();
                prop_assert_eq!(i64::from(merged.get(sku).copied().unwrap_or(0)), wanted);
            }
        }

        #[test]
        fn the_order_of_lines_means_nothing(asked in some_lines(), turns in 0..MAX_LINES) {
            let mut turned = asked.clone();
            turned.rotate_left(turns % asked.len());
            prop_assert_eq!(basket(&turned).fingerprint(), basket(&asked).fingerprint());
        }

        #[test]
        fn one_piece_more_is_another_order(asked in some_lines(), which in 0..MAX_LINES) {
            let mut more = asked.clone();
            let line = which % asked.len();
            more[line].1 = if more[line].1 == i64::from(MAX_QTY) { 1 } else { more[line].1 + 1 };
            proptest::prop_assume!(lines(basket(&more)) != lines(basket(&asked)));
            proptest::prop_assert_ne!(basket(&more).fingerprint(), basket(&asked).fingerprint());
        }

        #[test]
        fn a_quantity_is_taken_as_it_is_or_refused(found: i64) {
            let is_right = (1..=1_000).contains(&found);
            prop_assert_eq!(quantity(found).ok().map(i64::from), is_right.then_some(found));
        }
    }
}
