//! Register, log in and out, one's own account.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    caller::{self, By, SESSION_COOKIE},
    doors::{Owner, Reader},
    error::Problem,
    input::Input,
};
use crate::{
    accounts::{
        limits::{self, Limit, Verdict},
        password,
        secret::Secret,
        sessions::{IDLE_SECONDS, SessionsAway},
    },
    basket::{Fault, looks_like_email},
    state::{AppState, Shared},
    store::users::{self, User},
};

pub(super) const NO_STORE: (header::HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
const NAME_MAX: usize = 100;

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    email: String,
    password: String,
    #[serde(default)]
    name: String,
}

pub(crate) async fn register(
    State(state): State<Shared>,
    headers: HeaderMap,
    Input(request): Input<Registration>,
) -> Result<Response, Problem> {
    let Registration { email, password, name } = request;
    let mut faults = Vec::new();
    if !looks_like_email(&email) {
        faults.push(Fault::new("email", "expected an address such as ada@example.org"));
    }
    faults.extend(password_fault("password", &password));
    faults.extend(name_fault(&name));
    refuse(&faults, "invalid_registration")?;
    within(&state, limits::REGISTER_ADDRESS, &caller::address(&headers)).await?;
    let hash = password::hash(password).await?;
    let email = email.to_ascii_lowercase();
    let user = users::register(&mut *state.databases.connection().await?, &email, &name, &hash).await?;
    Ok((StatusCode::CREATED, logged_in_if_possible(&state, &headers, &user).await).into_response())
}

/// After a change that is made: an error would say that it is not. Logging in can wait.
async fn logged_in_if_possible(state: &AppState, headers: &HeaderMap, user: &User) -> Response {
    match log_in(state, headers, user).await {
        Ok(response) => response,
        Err(SessionsAway) => ([NO_STORE], Json(account(user, None))).into_response(),
    }
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    email: String,
    password: String,
}

/// The same answer after the same time, whether the address or the password was wrong.
pub(crate) async fn login(
    State(state): State<Shared>,
    headers: HeaderMap,
    Input(Login { email, password }): Input<Login>,
) -> Result<Response, Problem> {
    let email = email.to_ascii_lowercase();
    for (limit, whose) in [(limits::LOGIN_ADDRESS, caller::address(&headers)), (limits::LOGIN_ACCOUNT, email.clone())] {
        match state.limits.count(limit, &whose).await {
            Verdict::Within => {}
            Verdict::Exceeded(seconds) => return Err(Problem::too_many_requests(seconds)),
            // No session could begin: the answer would only tell whether the password was right, as often as one likes.
            Verdict::Unknown => return Err(SessionsAway.into()),
        }
    }
    let found = if looks_like_email(&email) {
        users::by_email(&mut *state.databases.connection().await?, &email).await?
    } else {
        None
    };
    let (user, hash) = found.unzip();
    let is_right = password.len() <= password::LENGTH_MAX && password::matches(password, hash).await?;
    let wrong = || Problem::new(StatusCode::UNAUTHORIZED, "wrong_credentials", "the address or the password is wrong");
    let user = user.filter(|_| is_right).ok_or_else(wrong)?;
    state.limits.forget(limits::LOGIN_ACCOUNT, &email).await;
    Ok(log_in(&state, &headers, &user).await?)
}

/// Begins a session and ends the one that the browser had.
async fn log_in(state: &AppState, headers: &HeaderMap, user: &User) -> Result<Response, SessionsAway> {
    let (secret, session) = state.sessions.begin(user.id, user.session_epoch).await?;
    if let Some(former) = caller::cookie(headers, SESSION_COOKIE).and_then(Secret::given) {
        state.sessions.end(&former).await?;
    }
    let cookie = session_cookie(headers, Some(&secret));
    Ok(([NO_STORE, (header::SET_COOKIE, cookie)], Json(account(user, Some(&session.csrf)))).into_response())
}

pub(crate) async fn logout(State(state): State<Shared>, headers: HeaderMap, owner: Owner) -> Result<Response, Problem> {
    state.sessions.end(&owner.secret).await?;
    Ok((StatusCode::NO_CONTENT, [NO_STORE, (header::SET_COOKIE, session_cookie(&headers, None))]).into_response())
}

/// `None` takes it away. `Secure` wherever the browser came by HTTPS: with it, plain HTTP would lose the cookie at once.
fn session_cookie(headers: &HeaderMap, secret: Option<&Secret>) -> HeaderValue {
    let is_https = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    let secure = if is_https { "; Secure" } else { "" };
    let (value, seconds) = secret.map_or(("", 0), |secret| (secret.expose(), IDLE_SECONDS));
    let text = format!("{SESSION_COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    // Letters, digits and punctuation: what a secret is made of.
    let mut cookie = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
    cookie.set_sensitive(true);
    cookie
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Account {
    #[serde(flatten)]
    user: User,
    /// Of the session, where there is one: every change needs it as `X-CSRF-Token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    csrf_token: Option<String>,
}

fn account(user: &User, csrf: Option<&str>) -> Account {
    Account { user: user.clone(), csrf_token: csrf.map(str::to_owned) }
}

pub(crate) async fn me(Reader(caller): Reader) -> Result<Response, Problem> {
    let csrf = match &caller.by {
        By::Session { session, .. } => Some(session.csrf.as_str()),
        By::Token(_) => None,
    };
    Ok(([NO_STORE], Json(account(&caller.user, csrf))).into_response())
}

/// Nothing else of an account may be set by its owner: not the role, not the address.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    name: String,
}

pub(crate) async fn rename(
    State(state): State<Shared>,
    owner: Owner,
    Input(Profile { name }): Input<Profile>,
) -> Result<Response, Problem> {
    refuse(name_fault(&name).as_slice(), "invalid_account")?;
    let user = users::set_name(&mut *state.databases.connection().await?, owner.user.id, &name).await?;
    Ok(([NO_STORE], Json(account(&user, Some(&owner.session.csrf)))).into_response())
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordChange {
    current: String,
    new: String,
}

/// Ends all sessions and tokens, and begins a session for whoever asked.
pub(crate) async fn change_password(
    State(state): State<Shared>,
    headers: HeaderMap,
    owner: Owner,
    Input(PasswordChange { current, new }): Input<PasswordChange>,
) -> Result<Response, Problem> {
    refuse(password_fault("new", &new).as_slice(), "invalid_password")?;
    within(&state, limits::LOGIN_ACCOUNT, &owner.user.email).await?;
    let hash = users::password_hash(&mut *state.databases.connection().await?, owner.user.id).await?;
    if current.len() > password::LENGTH_MAX || !password::matches(current, hash).await? {
        return Err(Problem::new(StatusCode::FORBIDDEN, "wrong_credentials", "the current password is wrong"));
    }
    let hash = password::hash(new).await?;
    let user = users::set_password(&mut *state.databases.connection().await?, owner.user.id, &hash).await?;
    Ok(logged_in_if_possible(&state, &headers, &user).await)
}

async fn within(state: &AppState, limit: Limit, whose: &str) -> Result<(), Problem> {
    match state.limits.count(limit, whose).await {
        // Without Redis nothing is counted: NGINX still counts, and a shop where nobody can register is no safer.
        Verdict::Within | Verdict::Unknown => Ok(()),
        Verdict::Exceeded(seconds) => Err(Problem::too_many_requests(seconds)),
    }
}

pub(super) fn refuse(faults: &[Fault], code: &'static str) -> Result<(), Problem> {
    if faults.is_empty() { Ok(()) } else { Err(Problem::faults(code, faults)) }
}

fn password_fault(path: &str, password: &str) -> Option<Fault> {
    let length = password.chars().count();
    let is_right = length >= password::LENGTH_MIN && password.len() <= password::LENGTH_MAX;
    let expected = format!("found {length} characters, expected {} to {}", password::LENGTH_MIN, password::LENGTH_MAX);
    (!is_right).then(|| Fault::new(path, &expected))
}

pub(super) fn name_fault(name: &str) -> Option<Fault> {
    let is_right = name.chars().count() <= NAME_MAX && !name.contains(char::is_control);
    (!is_right).then(|| Fault::new("name", &format!("expected up to {NAME_MAX} printable characters")))
}
