//! Who is let in.

use provisioner_core::finding::Broken;
use provisioner_core::name::Member;

use super::{Scene, listed, unknown};
use crate::postgres::login::{DATABASE, HOME, Login};
use crate::postgres::sql::SqlError;

/// invalid_password and invalid_authorization_specification (PostgreSQL 17 docs, appendix A).
const REFUSED: [&str; 2] = ["28P01", "28000"];

pub(super) async fn login(scene: &Scene<'_>) -> Result<String, Broken> {
    let each = scene.each(scene.members.iter(), async |member: Member| {
        for (login, database) in
            [(Login::App, DATABASE), (Login::Owner, DATABASE), (Login::Monitor, HOME), (Login::Ledger, HOME)]
        {
            let opened = scene.try_open(&member, login, scene.password(login), database).await?;
            opened.map_err(|error| Broken::Fail(format!("log in to {member} as {}: {error}", login.role())))?;
        }
        Ok("app, app_owner, monitor, ledger")
    });
    Ok(format!("scram-sha-256 on {}", listed(&each.await?)))
}

pub(super) async fn wrong_password_refused(scene: &Scene<'_>) -> Result<String, Broken> {
    let each = scene.each(scene.members.iter(), async |member: Member| {
        let mut codes = Vec::new();
        for login in [Login::App, Login::Superuser] {
            match attempt(scene, &member, login, Some("wrong")).await? {
                Err(error) if error.code().is_some_and(|code| REFUSED.contains(&code)) => {
                    codes.push(format!("{} {}", login.role(), error.code().unwrap_or_default()));
                }
                Err(error) => return Err(unknown(&member, error)),
                Ok(()) => return Err(Broken::Fail(format!("{member} lets {} in with a wrong password", login.role()))),
            }
        }
        Ok(codes.join(" and "))
    });
    Ok(listed(&each.await?))
}

pub(super) async fn no_password_refused(scene: &Scene<'_>) -> Result<String, Broken> {
    let each = scene.each(scene.members.iter(), async |member: Member| {
        for login in [Login::App, Login::Monitor, Login::Superuser] {
            match attempt(scene, &member, login, None).await? {
                // The client gives up when it is asked for a password that it does not have.
                Err(SqlError::Connection(text)) if text.contains("password missing") => {}
                Err(error) if error.code().is_some_and(|code| REFUSED.contains(&code)) => {}
                Err(error) => return Err(unknown(&member, error)),
                Ok(()) => return Err(Broken::Fail(format!("{member} lets {} in without a password", login.role()))),
            }
        }
        Ok("asks for a password")
    });
    Ok(listed(&each.await?))
}

async fn attempt(
    scene: &Scene<'_>,
    member: &Member,
    login: Login,
    password: Option<&str>,
) -> Result<Result<(), SqlError>, Broken> {
    let database = if login == Login::App { DATABASE } else { HOME };
    Ok(scene.try_open(member, login, password, database).await?.map(drop))
}
