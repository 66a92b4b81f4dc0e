//! `/api/v1/admin/products`: staff reads them, an administrator changes them. A change names the version that it was made of.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    basket::Fault,
    catalogue::invalidation,
    http::{
        accounts::{NO_STORE, refuse},
        doors::{Admin, Staff},
        error::Problem,
        input::{Asked, Input, Path, can_be_stored},
        observe::RequestId,
        page::Page,
    },
    state::Shared,
    store::admin::products::{self, Fields, Product, State as ProductState},
};

const PRICE_MAX: i64 = 1_000_000_000;

#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct ProductQuery {
    cursor: Option<String>,
    limit: Option<u32>,
    #[param(inline)]
    state: Option<ProductState>,
}

/// All that a product says. What may be left out is empty, or listed.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WholeProduct)]
pub(crate) struct Whole {
    /// Of a new one; later it is that of the path.
    sku: Option<String>,
    name: String,
    #[serde(default)]
    description: String,
    brand: String,
    /// The slug of one that is there.
    category: String,
    #[serde(default = "empty")]
    #[schema(value_type = Object)]
    attrs: Value,
    price_cents: i64,
    currency: String,
    #[serde(default)]
    state: ProductState,
}

fn empty() -> Value {
    json!({})
}

impl From<Whole> for Fields {
    fn from(whole: Whole) -> Self {
        Self {
            name: Some(whole.name),
            description: Some(whole.description),
            brand: Some(whole.brand),
            category: Some(whole.category),
            attrs: Some(whole.attrs),
            price_cents: Some(whole.price_cents),
            currency: Some(whole.currency),
            state: Some(whole.state),
        }
    }
}

pub(crate) async fn list(
    State(state): State<Shared>,
    Staff(_): Staff,
    Asked(query): Asked<ProductQuery>,
) -> Result<Response, Problem> {
    let page = Page::of("products", query.cursor.as_deref(), query.limit)?;
    let mut connection = state.databases.connection().await?;
    let rows = products::list(&mut connection, query.state, page.last.unwrap_or_default(), page.rows()).await?;
    Ok(page.answer(rows, |product| product.id))
}

pub(crate) async fn create(
    State(state): State<Shared>,
    Admin(caller): Admin,
    Extension(id): Extension<RequestId>,
    Input(mut whole): Input<Whole>,
) -> Result<Response, Problem> {
    let sku = whole.sku.take().unwrap_or_default();
    let fields = Fields::from(whole);
    let mut faults = faults(&fields);
    let is_sku = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=64).contains(&sku.len()) || !sku.bytes().all(is_sku) || sku.starts_with('.') {
        faults.push(Fault::new("sku", "expected 1 to 64 letters, digits, '-', '_' or '.', which is not the first"));
    }
    refuse(&faults, "invalid_product")?;
    let author = caller.author(id);
    let product = products::create(&mut *state.databases.connection().await?, &author, &sku, &fields).await?;
    invalidation::announce_at_once(&state).await;
    let location = format!("/api/v1/admin/products/{sku}");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], answer(&product)).into_response())
}

pub(crate) async fn read(
    State(state): State<Shared>,
    Staff(_): Staff,
    Path(sku): Path<String>,
) -> Result<Response, Problem> {
    let mut connection = state.databases.connection().await?;
    Ok(answer(&products::by_sku(&mut connection, &known(&sku)?).await?))
}

pub(crate) async fn replace(
    State(state): State<Shared>,
    Admin(caller): Admin,
    Extension(id): Extension<RequestId>,
    Path(sku): Path<String>,
    headers: HeaderMap,
    Input(whole): Input<Whole>,
) -> Result<Response, Problem> {
    let author = caller.author(id);
    if whole.sku.as_ref().is_some_and(|given| *given != sku) {
        refuse(&[Fault::new("sku", "expected that of the path, or none")], "invalid_product")?;
    }
    change(&state, &author, &sku, &headers, whole.into()).await
}

pub(crate) async fn patch(
    State(state): State<Shared>,
    Admin(caller): Admin,
    Extension(id): Extension<RequestId>,
    Path(sku): Path<String>,
    headers: HeaderMap,
    Input(fields): Input<Fields>,
) -> Result<Response, Problem> {
    let author = caller.author(id);
    change(&state, &author, &sku, &headers, fields).await
}

/// It stays for the orders that name it.
pub(crate) async fn deactivate(
    State(state): State<Shared>,
    Admin(caller): Admin,
    Extension(id): Extension<RequestId>,
    Path(sku): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let author = caller.author(id);
    let fields = Fields { state: Some(ProductState::Inactive), ..Fields::default() };
    change(&state, &author, &sku, &headers, fields).await
}

async fn change(
    state: &Shared,
    author: &crate::store::audit::Author,
    sku: &str,
    headers: &HeaderMap,
    fields: Fields,
) -> Result<Response, Problem> {
    let version = expected(headers)?;
    refuse(&faults(&fields), "invalid_product")?;
    let sku = known(sku)?;
    let product = products::update(&mut *state.databases.connection().await?, author, &sku, version, &fields).await?;
    invalidation::announce_at_once(state).await;
    Ok(answer(&product))
}

/// What cannot be a SKU is no product's.
pub(super) fn known(sku: &str) -> Result<String, Problem> {
    let is_sku = crate::basket::looks_like_sku(sku);
    is_sku.then(|| sku.to_owned()).ok_or_else(|| Problem::not_found("there is no such product"))
}

fn answer(product: &Product) -> Response {
    let mut response = ([NO_STORE], Json(product)).into_response();
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", product.version)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// `None`: whichever there is, as `*` asks for. A tag that is no version is one that no product has.
pub(in crate::http) fn expected(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        let detail = "send the ETag that you have read as If-Match";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "if_match_missing", detail));
    };
    let tag = value.to_str().unwrap_or_default().trim();
    if tag == "*" {
        return Ok(None);
    }
    let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse::<i64>().ok());
    // "+3" would be read as 3, and is no tag that was given.
    let version = version.filter(|version| tag == format!("\"{version}\""));
    version.map(Some).ok_or_else(|| {
        let detail = "expected one ETag as it was given, such as \"3\"";
        Problem::new(StatusCode::PRECONDITION_FAILED, "version_stale", detail)
    })
}

pub(in crate::http) fn faults(fields: &Fields) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut text = |path: &str, value: Option<&String>, range: std::ops::RangeInclusive<usize>, lines: bool| {
        let is_good = |text: &String| {
            range.contains(&text.chars().count())
                && !text.chars().any(|c| c.is_control() && !(lines && matches!(c, '\n' | '\t')))
        };
        if !value.is_none_or(is_good) {
            let expected = format!("expected {} to {} printable characters", range.start(), range.end());
            faults.push(Fault::new(path, &expected));
        }
    };
    text("name", fields.name.as_ref(), 1..=200, false);
    text("description", fields.description.as_ref(), 0..=10_000, true);
    text("brand", fields.brand.as_ref(), 1..=64, false);
    text("category", fields.category.as_ref(), 1..=64, false);
    if fields.attrs.as_ref().is_some_and(|attrs| !attrs.is_object() || !can_be_stored(attrs)) {
        faults.push(Fault::new("attrs", "expected an object, without the character U+0000"));
    }
    if fields.price_cents.is_some_and(|cents| !(0..=PRICE_MAX).contains(&cents)) {
        faults.push(Fault::new("price_cents", &format!("expected 0 to {PRICE_MAX}")));
    }
    let is_currency = |text: &String| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if !fields.currency.as_ref().is_none_or(is_currency) {
        faults.push(Fault::new("currency", "expected three capital letters"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_one_version_or_any() {
        let of =
            |value: &str| expected(&HeaderMap::from_iter([(header::IF_MATCH, HeaderValue::from_str(value).unwrap())]));
        assert_eq!((of("\"7\"").unwrap(), of("*").unwrap()), (Some(7), None));
        for bad in ["", "7", "W/\"7\"", "\"7\", \"8\"", "\"x\"", "\"+7\"", "\"07\""] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(expected(&HeaderMap::new()).is_err());
    }

    #[test]
    fn every_fault_is_named() {
        let bad = Fields {
            name: Some(String::new()),
            description: Some("a\0".to_owned()),
            brand: Some("x".repeat(65)),
            category: Some("a\nb".to_owned()),
            attrs: Some(json!({ "a": ["\0"] })),
            price_cents: Some(-1),
            currency: Some("eur".to_owned()),
            state: None,
        };
        let paths: Vec<String> = faults(&bad).into_iter().map(|fault| fault.path).collect();
        assert_eq!(paths, ["name", "description", "brand", "category", "attrs", "price_cents", "currency"]);
        let good = Fields { description: Some("two\nlines".to_owned()), price_cents: Some(0), ..Fields::default() };
        assert_eq!(faults(&good), []);
    }
}
