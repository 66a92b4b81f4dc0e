//! What every route takes and gives, as an OpenAPI document and as a page for people. A live test compares it with the
//! router: a route that is not described fails it.

mod operations;
mod page;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        ComponentsBuilder, Content, HeaderBuilder, HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Paths,
        Ref, RefOr, Required, ResponseBuilder, Schema,
        path::{OperationBuilder, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type},
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

const CACHED: (header::HeaderName, &str) = (header::CACHE_CONTROL, "public, max-age=300");

pub(crate) async fn document() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    // Made of names and constants alone: there is nothing in it that JSON cannot say.
    let text = TEXT.get_or_init(|| build().to_json().unwrap_or_default());
    ([CACHED, (header::CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}

/// Without scripts and styles: it needs nothing from elsewhere, and no exception to the content security policy.
pub(crate) async fn page() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| page::render(&build()));
    ([CACHED, (header::CONTENT_TYPE, "text/html; charset=utf-8")], text.as_str()).into_response()
}

/// Who gets in, as the tests of permissions have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    Guests(&'static str),
    /// Guests too, where it is theirs; what belongs to an account takes this scope of its owner's token, or of staff's.
    Owned {
        own: &'static str,
        staff: &'static str,
    },
    Known(&'static str),
    Session,
    Staff,
    Admin,
}

struct Operation {
    method: HttpMethod,
    path: &'static str,
    built: OperationBuilder,
    /// Codes by status.
    refusals: BTreeMap<u16, BTreeSet<&'static str>>,
    schemas: Vec<(String, RefOr<Schema>)>,
    /// Headers of a success.
    tells: Vec<(&'static str, &'static str)>,
}

impl Operation {
    fn new(method: HttpMethod, path: &'static str, tag: &str, door: Door, summary: &str) -> Self {
        let mut built = OperationBuilder::new().tag(tag).summary(Some(summary));
        for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            built = built.parameter(parameter(name, ParameterIn::Path, true, ""));
        }
        let is_change = method != HttpMethod::Get;
        for way in ways(door, is_change) {
            built = built.security(way);
        }
        let who = match door {
            Door::Open => "Everybody.".to_owned(),
            Door::Owned { own, staff } => format!(
                "Everybody; what belongs to an account is for its owner, whose token needs the scope `{own}`, and for staff, \
                 whose token needs `{staff}`."
            ),
            Door::Guests(scope) => format!("Everybody; a token needs the scope `{scope}`."),
            Door::Known(scope) => format!("Whoever is logged in; a token needs the scope `{scope}`."),
            Door::Session => "A session of one's own; no token.".to_owned(),
            Door::Staff => format!("Staff; a token needs the scope `{}`.", scope_of_staff(is_change)),
            Door::Admin => format!("An administrator; a token needs the scope `{}`.", scope_of_staff(is_change)),
        };
        let built = built.description(Some(who));
        let mut new = Self { method, path, built, refusals: BTreeMap::new(), schemas: Vec::new(), tells: Vec::new() };
        if path.contains('{') {
            new = new.refuses(404, &["not_found"]);
        }
        if door == Door::Open {
            return new;
        }
        let is_for_guests = matches!(door, Door::Guests(_) | Door::Owned { .. });
        new = new.refuses(401, &["session_over", "invalid_token"]).refuses(403, &["forbidden"]);
        new = if is_for_guests { new } else { new.refuses(401, &["not_logged_in"]) };
        if is_change { new.refuses(403, &["csrf_token_wrong"]) } else { new }
    }

    fn refuses(mut self, status: u16, codes: &[&'static str]) -> Self {
        self.refusals.entry(status).or_default().extend(codes);
        self
    }

    fn query<T: IntoParams>(mut self) -> Self {
        self.built = self.built.parameters(Some(T::into_params(|| Some(ParameterIn::Query))));
        self.refuses(400, &["invalid_query"])
    }

    /// Whoever changes something names what was read.
    fn of_a_version(self) -> Self {
        let what = "The ETag that was read, such as \"3\"";
        self.header("If-Match", what).refuses(412, &["version_stale"]).refuses(428, &["if_match_missing"])
    }

    fn once(self) -> Self {
        let what = "A fresh UUID for each one, the same for each retry";
        self.header("Idempotency-Key", what)
            .refuses(400, &["idempotency_key_missing", "idempotency_key_invalid"])
            .refuses(409, &["idempotency_key_running"])
            .refuses(422, &["idempotency_key_reused"])
    }

    fn parameter(mut self, name: &str, what: &str) -> Self {
        self.built = self.built.parameter(parameter(name, ParameterIn::Query, false, what));
        self
    }

    fn header(mut self, name: &str, what: &str) -> Self {
        self.built = self.built.parameter(parameter(name, ParameterIn::Header, true, what));
        self
    }

    fn may_have(mut self, name: &str, what: &str) -> Self {
        self.built = self.built.parameter(parameter(name, ParameterIn::Header, false, what));
        self
    }

    /// A header of its answer.
    fn tells(mut self, name: &'static str, what: &'static str) -> Self {
        self.tells.push((name, what));
        self
    }

    /// Whoever has the answer already need not be sent it again.
    fn cached(self) -> Self {
        let mut it = self.may_have("If-None-Match", "The ETag of the answer that is there already");
        let same = ResponseBuilder::new().description("It is the answer that If-None-Match names");
        it.built = it.built.response("304", same.build());
        it.tells("ETag", "Names this answer").tells("X-Source", "redis, replica or primary")
    }

    fn takes<T: ToSchema>(self) -> Self {
        let content = Content::new(Some(Ref::from_schema_name(T::name())));
        let json = self.known::<T>().takes_content("application/json", content);
        json.refuses(400, &["invalid_json"]).refuses(415, &["unsupported_media_type"]).refuses(422, &["invalid_body"])
    }

    fn takes_content(mut self, kind: &str, content: Content) -> Self {
        let body = RequestBodyBuilder::new().content(kind, content).required(Some(Required::True)).build();
        self.built = self.built.request_body(Some(body));
        self.refuses(400, &["unreadable_body"]).refuses(413, &["payload_too_large"])
    }

    fn gives<T: ToSchema>(self, status: u16) -> Self {
        self.known::<T>().gives_schema(status, Some(Ref::from_schema_name(T::name()).into()))
    }

    /// A page of them, or every one.
    fn lists<T: ToSchema>(self, has_cursor: bool) -> Self {
        self.lists_and::<T>(has_cursor, &[])
    }

    /// With something about all of them.
    fn lists_and<T: ToSchema>(self, has_cursor: bool, others: &[(&str, Type)]) -> Self {
        let items = ArrayBuilder::new().items(Ref::from_schema_name(T::name()));
        let mut page = ObjectBuilder::new().property("items", items).required("items");
        for (name, kind) in others {
            page = page.property(*name, ObjectBuilder::new().schema_type(kind.clone())).required(*name);
        }
        let mut it = self;
        if has_cursor {
            it = it.refuses(400, &["invalid_cursor"]);
            let cursor = SchemaType::from_iter([Type::String, Type::Null]);
            page = page.property("next_cursor", ObjectBuilder::new().schema_type(cursor)).required("next_cursor");
        }
        it.known::<T>().gives_schema(200, Some(Schema::from(page).into()))
    }

    fn gives_object(self, status: u16) -> Self {
        self.gives_schema(status, Some(Schema::from(ObjectBuilder::new()).into()))
    }

    fn gives_schema(mut self, status: u16, schema: Option<RefOr<Schema>>) -> Self {
        let answer = ResponseBuilder::new().description(match status {
            201 => "Made",
            202 => "Taken, and dealt with later",
            204 => "Done; there is nothing to say",
            _ => "Done",
        });
        let answer = match schema {
            Some(schema) => answer.content("application/json", Content::new(Some(schema))),
            None => answer,
        };
        self.built = self.built.response(status.to_string(), answer.build());
        self
    }

    fn known<T: ToSchema>(mut self) -> Self {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        self
    }

    fn finish(self) -> (&'static str, PathItem, Vec<(String, RefOr<Schema>)>) {
        let problem = |what: String| {
            let problem = Content::new(Some(Ref::from_schema_name("Problem")));
            ResponseBuilder::new().description(what).content("application/problem+json", problem).build()
        };
        let mut built = self.built;
        for (status, codes) in self.refusals {
            let codes: Vec<String> = codes.into_iter().map(|code| format!("`{code}`")).collect();
            built = built.response(status.to_string(), problem(codes.join(", ")));
        }
        let away = "`database_unavailable`, `sessions_unavailable` and the like: try again after Retry-After";
        built = built.response("5XX", problem(away.to_owned()));
        let mut built = built.build();
        for (status, answer) in &mut built.responses.responses {
            let RefOr::T(answer) = answer else { continue };
            for (name, what) in self.tells.iter().filter(|_| status.starts_with('2')) {
                let text = Schema::from(ObjectBuilder::new().schema_type(Type::String));
                let header = HeaderBuilder::new().schema(Some(text)).description(Some(*what)).build();
                answer.headers.insert((*name).to_owned(), header.into());
            }
        }
        (self.path, PathItem::new(self.method, built), self.schemas)
    }
}

fn scope_of_staff(is_change: bool) -> &'static str {
    if is_change { "admin:write" } else { "admin:read" }
}

/// Any one of them will do; a session needs its CSRF token for changes.
fn ways(door: Door, is_change: bool) -> Vec<SecurityRequirement> {
    let none: [&str; 0] = [];
    let session = SecurityRequirement::new("session", none);
    let session = if is_change { session.add("csrf", none) } else { session };
    let token = SecurityRequirement::new("token", none);
    match door {
        Door::Open => vec![],
        Door::Guests(_) | Door::Owned { .. } => vec![SecurityRequirement::default(), session, token],
        Door::Session => vec![session],
        Door::Known(_) | Door::Staff | Door::Admin => vec![session, token],
    }
}

fn parameter(name: &str, place: ParameterIn, is_required: bool, what: &str) -> ParameterBuilder {
    let required = if is_required { Required::True } else { Required::False };
    let text = ObjectBuilder::new().schema_type(Type::String);
    let parameter = ParameterBuilder::new().name(name).parameter_in(place).required(required);
    parameter.description((!what.is_empty()).then_some(what)).schema(Some(Schema::from(text)))
}

fn build() -> OpenApi {
    let mut paths = Paths::new();
    let mut components = ComponentsBuilder::new();
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let status = ObjectBuilder::new().schema_type(Type::Integer);
    let problem = ObjectBuilder::new()
        .property("type", text())
        .property("title", text())
        .property("status", status)
        .property("code", text())
        .property("detail", text())
        .required("status")
        .required("code");
    components = components.schema("Problem", Schema::from(problem));
    for operation in operations::all() {
        let (path, item, schemas) = operation.finish();
        components = components.schemas_from_iter(schemas);
        match paths.paths.get_mut(path) {
            Some(known) => known.merge_operations(item),
            None => {
                paths.paths.insert(path.to_owned(), item);
            }
        }
    }
    let components = components
        .security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("session"))))
        .security_scheme("csrf", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-CSRF-Token"))))
        .security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let about = "Errors are application/problem+json with a stable `code`. Lists go on at `next_cursor`.";
    let info = InfoBuilder::new().title("app").version(env!("CARGO_PKG_VERSION")).description(Some(about));
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build())).build()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_says_who_may() {
        let document = serde_json::to_value(build()).unwrap();
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 60, "{}", references.len());
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        // One that is no more than "an object" says nothing to whoever writes a client.
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let answers = operation["responses"].as_object().unwrap().iter();
                for (status, answer) in answers.filter(|(status, _)| status.starts_with('2') && path != "/openapi.json")
                {
                    let Some(schema) = answer.pointer("/content/application~1json/schema") else { continue };
                    let is_told = schema.get("$ref").is_some() || schema["properties"].is_object();
                    assert!(is_told, "{method} {path}: {status} {schema}");
                }
            }
        }
        let operations = operations::all();
        assert!(operations.len() >= 40, "{}", operations.len());
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let who = operation["description"].as_str().unwrap();
                let is_staffs = who.starts_with("Staff;") || who.starts_with("An administrator;");
                assert_eq!(is_staffs, path.starts_with("/api/v1/admin/"), "{method} {path}: {who}");
            }
        }
    }

    #[test]
    fn what_answers_tell_besides_their_subject_is_described() {
        let document = serde_json::to_value(build()).unwrap();
        let text = document.to_string();
        for (method, path, status) in [
            ("post", "/api/v1/auth/register", "201"),
            ("post", "/api/v1/auth/login", "200"),
            ("get", "/api/v1/me", "200"),
        ] {
            let answer = &document["paths"][path][method]["responses"][status];
            assert_eq!(
                answer["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/Account",
                "{path}"
            );
        }
        for (schema, field) in [("Account", "csrf_token"), ("TokenMade", "token"), ("AdminOrderWithItems", "items")] {
            let schema = &document["components"]["schemas"][schema];
            assert!(schema.to_string().contains(&format!("\"{field}\":")), "{field}: {schema}");
        }
        let cancel = &document["paths"]["/api/v1/orders/{id}/cancel"]["post"];
        let who = cancel["description"].as_str().unwrap();
        assert!(who.contains("`order`") && who.contains("`admin:write`"), "{who}");
        assert!(cancel["responses"]["200"]["headers"]["X-Read-After"].is_object(), "{cancel}");
        assert_eq!(text.matches("\"name\":\"If-None-Match\"").count(), 4);
        assert_eq!(text.matches("\"304\":").count(), 4);
        assert_eq!(text.matches("\"name\":\"X-Read-After\"").count(), 1);
    }

    fn collect(value: &Value, found: &mut Vec<String>) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            found.push(reference.to_owned());
        }
        match value {
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Object(fields) => fields.values().for_each(|field| collect(field, found)),
            _ => {}
        }
    }
}
