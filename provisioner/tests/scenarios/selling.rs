//! Products of which there are only so many, bought by several customers at once. What they were told is held against what is
//! left.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Stack, eventually};
use crate::http;

const CUSTOMERS: usize = 4;
const ORDERS_A_CUSTOMER: usize = 10;
/// Every third order of a customer is of what runs out: before the last round, and not in the first.
const SCARCE_EVERY: usize = 3;
const SCARCE: i64 = 60;
const PLENTY: i64 = 5000;
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

struct Goods {
    sku: String,
    before: i64,
    /// Pieces that customers were told are theirs.
    sold: AtomicI64,
}

pub(crate) struct Sale {
    plenty: Goods,
    scarce: Goods,
    placed: AtomicUsize,
    refused: AtomicUsize,
}

impl Sale {
    /// Two products of the shop get the stock that the sale is about.
    pub(crate) fn begin(stack: &Stack) -> Self {
        let skus = sql(stack, "SELECT sku FROM products WHERE NOT hidden AND active ORDER BY id DESC LIMIT 2");
        let goods = |nth: usize, before: i64| {
            let sku = skus.lines().nth(nth).unwrap().to_owned();
            let change = format!(
                "UPDATE inventory SET on_hand = {before} FROM products WHERE id = product_id AND sku = '{sku}'"
            );
            sql(stack, &change);
            Goods { sku, before, sold: AtomicI64::new(0) }
        };
        let (plenty, scarce) = (goods(0, PLENTY), goods(1, SCARCE));
        Self { plenty, scarce, placed: AtomicUsize::new(0), refused: AtomicUsize::new(0) }
    }

    /// Orders that were placed: each is worth a mail.
    pub(crate) fn placed(&self) -> usize {
        self.placed.load(Ordering::SeqCst)
    }

    /// All customers at once; `name` begins the name of each order.
    pub(crate) fn rush(&self, base: &str, name: &str) {
        std::thread::scope(|scope| {
            for customer in 0..CUSTOMERS {
                scope.spawn(move || {
                    (0..ORDERS_A_CUSTOMER).for_each(|nth| self.buy(base, &format!("{name}-{customer}"), nth))
                });
            }
        });
    }

    /// The same key until there is an answer: whatever became of the first try, it counts once.
    fn buy(&self, base: &str, customer: &str, nth: usize) {
        let name = format!("{customer}-{nth}");
        let (goods, qty) =
            if nth.is_multiple_of(SCARCE_EVERY) { (&self.scarce, 1) } else { (&self.plenty, 1 + nth % 3) };
        let answer = eventually("an order is answered", ANSWER_LIMIT, || {
            let answer = http::order_of(base, &name, &goods.sku, qty, &format!("{name}@example.com"));
            // NGINX's limit, and what a restart of the database looks like from outside.
            (answer.status != 429 && answer.status < 500).then_some(answer)
        });
        match answer.status {
            201 => {
                goods.sold.fetch_add(i64::try_from(qty).unwrap(), Ordering::SeqCst);
                self.placed.fetch_add(1, Ordering::SeqCst);
            }
            _ => {
                assert_eq!(answer.json()["code"], "out_of_stock", "{name}: {} {}", answer.status, answer.body);
                self.refused.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// No piece was lost, none was sold twice, and what ran out was sold to the last piece.
    pub(crate) fn adds_up(&self, stack: &Stack) {
        for Goods { sku, before, sold } in [&self.plenty, &self.scarce] {
            let (left, sold) = (stock(stack, sku), sold.load(Ordering::SeqCst));
            eprintln!("{sku}: {before} before, {sold} sold, {left} left");
            assert!(sold > 0, "nobody bought {sku}");
            assert_eq!(left + sold, *before, "{sku}: {left} left and {sold} sold of {before}");
        }
        assert_eq!(stock(stack, &self.scarce.sku), 0, "{} of {}", self.scarce.sold.load(Ordering::SeqCst), SCARCE);
        assert!(self.refused.load(Ordering::SeqCst) > 0, "nobody was refused, expected more customers than pieces");
        assert_eq!(sql(stack, "SELECT count(*) FROM inventory WHERE on_hand < 0"), "0");
    }
}

/// What is left of a product, as the database has it.
pub(crate) fn stock(stack: &Stack, sku: &str) -> i64 {
    let query = format!("SELECT on_hand FROM inventory JOIN products ON id = product_id WHERE sku = '{sku}'");
    sql(stack, &query).parse().unwrap()
}

/// One value of the shop's database.
pub(crate) fn sql(stack: &Stack, statement: &str) -> String {
    let words = ["exec", "postgres-1", "--", "psql", "-U", "postgres", "-d", "app", "-XqAtc", statement];
    stack.ok(&words).trim().to_owned()
}
