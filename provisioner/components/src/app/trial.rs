//! The app as its customers use it: by the published entrance, with an order of a product that is on sale. For stacks
//! that are thrown away.

use std::time::Instant;

use async_trait::async_trait;
use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Level, check};
use provisioner_core::stack::Stack;
use provisioner_core::trial::{Client, Expendable, Journey, Trial};
use reqwest::Method;
use reqwest::header::CONNECTION;
use serde_json::{Value, json};

use super::orders::{self, MAIL_LIMIT, order_id};
use super::verify::get;
use super::{App, Contract, NAME, picture, search};
use crate::checks::{nonce, unlimited};
use crate::http::Site;
use crate::{mail, media, nginx};

/// So many are on sale of the product that is ordered, at least.
const QUANTITY: i64 = 2;

#[async_trait]
impl Trial for App {
    async fn journey(&self, access: &Access<'_>) -> Journey {
        match Contract::read(access.stack) {
            Ok(contract) if contract.is_shop => order(access).await,
            Ok(Contract { smoke: Some(path), .. }) => {
                let finding = check(NAME, "smoke-path", Level::L2, answers(access, &path)).await;
                Journey { findings: vec![finding], not_run: Vec::new() }
            }
            Ok(_) => not_run("the app is no shop, and app.smoke names no path of it to ask"),
            Err(error) => not_run(&error),
        }
    }

    fn expendable(&self, stack: &Stack) -> Option<Expendable> {
        let others = super::backends(stack).count().checked_sub(1)?;
        super::backends(stack).next().map(|backend| Expendable { member: backend.member.clone(), others })
    }

    async fn client(&self, access: &Access<'_>) -> Result<Box<dyn Client>, Broken> {
        let path = match Contract::read(access.stack).map_err(Broken::Unknown)? {
            Contract { is_shop: true, .. } => None,
            Contract { smoke: Some(path), .. } => Some(path),
            Contract { health, .. } => Some(health),
        };
        Ok(Box::new(Customer { site: nginx::customers(access).await?, path }))
    }
}

/// Looks at the shop's listing, or at an app's own path.
struct Customer {
    site: Site,
    path: Option<String>,
}

#[async_trait]
impl Client for Customer {
    async fn ask(&self) -> Result<(), Broken> {
        // Nobody has asked for this brand before, so no cache answers.
        let path = self.path.clone().unwrap_or_else(|| format!("/api/v1/products?limit=1&brand={}", nonce()));
        let what = format!("GET {path}");
        // A connection each: one that is kept may be closed by a reload of NGINX just as it is used again, which a browser
        // answers by asking once more.
        let request = || self.site.request(Method::GET, &path).header(CONNECTION, "close");
        unlimited(&what, request).await?.expect(200, &what).map(|_| ())
    }
}

fn not_run(why: &str) -> Journey {
    Journey { findings: Vec::new(), not_run: vec![format!("order: {why}")] }
}

async fn answers(access: &Access<'_>, path: &str) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    get(&site, path).await?.expect(200, &format!("GET {path}"))?;
    Ok(format!("GET {path}: 200"))
}

/// What a customer has ordered, and what was on sale of it before.
struct Placed {
    order: String,
    recipient: String,
    sku: String,
    stock_before: Option<i64>,
    at: Instant,
}

/// From the listing to the mail in the box and the changed stock in search.
async fn order(access: &Access<'_>) -> Journey {
    let mut journey = Journey::default();
    let (is_mailing, is_indexing) = (orders::is_mailing(access.stack), search::is_indexing(access.stack));
    let mut placed = None;
    let placing = async {
        let made = place(access, is_indexing).await?;
        let evidence = format!("order {} of {QUANTITY} {} was placed and read back", made.order, made.sku);
        placed = Some(made);
        Ok(evidence)
    };
    journey.findings.push(check(NAME, "order-placed", Level::L2, placing).await);
    for (part, is_there, needs) in [
        ("mail", is_mailing, "rabbitmq, mail and the workers relay and email"),
        ("search", is_indexing, "rabbitmq, elasticsearch and the workers relay and search"),
    ] {
        if !is_there {
            journey.not_run.push(format!("{part}: the stack has not all of {needs}"));
        }
    }
    let Some(placed) = placed else { return journey };
    if is_mailing {
        journey.findings.push(check(NAME, "confirmation-mail", Level::L3, confirmed(access, &placed)).await);
    }
    if access.stack.members(media::NAME).next().is_some() {
        journey.findings.push(check(NAME, "picture-upload", Level::L3, picture::uploaded(access)).await);
    }
    if is_indexing {
        journey.findings.push(check(NAME, "stock-in-search", Level::L3, searched(access, &placed)).await);
    }
    journey
}

async fn place(access: &Access<'_>, is_indexing: bool) -> Result<Placed, Broken> {
    let site = nginx::customers(access).await?;
    let sku = on_sale(&site).await?;
    let stock_before = if is_indexing { search::stock(access, &sku).await? } else { None };
    let nonce = nonce();
    let recipient = format!("smoke-{nonce}@provisioner.invalid");
    let body = json!({ "email": recipient, "items": [{ "sku": sku, "qty": QUANTITY }] });
    let what = "POST /api/v1/orders";
    let at = Instant::now();
    let request = || site.request(Method::POST, "/api/v1/orders").header("idempotency-key", &nonce).json(&body);
    let order = order_id(&unlimited(what, request).await?.expect(201, what)?)?;
    let path = format!("/api/v1/orders/{order}");
    let found = get(&site, &path).await?.expect(200, &format!("GET {path}"))?;
    if order_id(&found)? != order {
        return Err(Broken::fail(format!("GET {path}: another order")));
    }
    Ok(Placed { order, recipient, sku, stock_before, at })
}

/// The first product of the listing that can be bought.
async fn on_sale(site: &Site) -> Result<String, Broken> {
    let path = "/api/v1/products?limit=50";
    let page = get(site, path).await?.expect(200, "GET /api/v1/products")?.json()?;
    let items = page["items"].as_array().ok_or_else(|| Broken::fail("a listing has no items"))?;
    let bought = items.iter().find(|item| item["in_stock"] == true).and_then(|item| item["sku"].as_str());
    bought
        .map(str::to_owned)
        .ok_or_else(|| Broken::fail(format!("GET {path}: nothing is in stock, expected something")))
}

async fn confirmed(access: &Access<'_>, placed: &Placed) -> Result<String, Broken> {
    let arrived = mail::taken(access, &placed.recipient, MAIL_LIMIT).await?;
    Ok(format!("{:?} came {} ms after the order", arrived.subject, placed.at.elapsed().as_millis()))
}

/// The index has the new stock, and a customer who searches finds the product there and not in the database.
async fn searched(access: &Access<'_>, placed: &Placed) -> Result<String, Broken> {
    let Placed { sku, stock_before, .. } = placed;
    let before = stock_before.ok_or_else(|| Broken::fail(format!("{sku} was not in the index before the order")))?;
    let now = search::stock_falls(access, sku, before - QUANTITY).await?;
    let took = placed.at.elapsed().as_millis();
    let site = nginx::customers(access).await?;
    let product: Value =
        get(&site, &format!("/api/v1/products/{sku}")).await?.expect(200, "GET the product")?.json()?;
    let word = search::word(product["name"].as_str().unwrap_or_default());
    let found = search::answered(&site, &format!("/api/v1/search?limit=100&q={word}")).await?;
    let is_found = found["items"].as_array().is_some_and(|items| items.iter().any(|item| item["sku"] == **sku));
    if !is_found {
        return Err(Broken::fail(format!("a search for {word:?} does not find {sku}")));
    }
    Ok(format!("{sku} went from {before} to {now} in the index {took} ms after the order, and {word:?} finds it"))
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::manifest::{AppChecks, Manifest};

    use super::*;
    use crate::testing::manifest;

    fn stack(manifest: &Manifest) -> Stack {
        Stack::new(manifest.name.clone(), App.declare(manifest))
    }

    #[test]
    fn a_backend_may_be_lost_and_how_many_are_left_is_told() {
        let mut manifest = manifest();
        for replicas in [1_usize, 2, 5] {
            manifest.app.replicas = u32::try_from(replicas).unwrap();
            let expendable = App.expendable(&stack(&manifest)).unwrap();
            assert_eq!((expendable.member.as_str(), expendable.others), ("backend-1", replicas - 1));
        }
    }

    #[tokio::test]
    async fn an_app_of_ones_own_without_a_path_is_said_not_to_be_tried() {
        let mut manifest = manifest();
        manifest.app.checks = AppChecks::Health;
        let stack = stack(&manifest);
        let engine = provisioner_core::testing::memory::MemoryEngine::new(stack.name.clone());
        let (observed, images) = Default::default();
        let quiet = provisioner_core::engine::Quiet;
        let access = Access { engine: &engine, stack: &stack, observed: &observed, images: &images, output: &quiet };
        let journey = App.journey(&access).await;
        assert_eq!(journey.findings, []);
        assert_eq!(journey.not_run, ["order: the app is no shop, and app.smoke names no path of it to ask"]);
    }
}
