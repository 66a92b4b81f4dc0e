//! Every operation answers as the OpenAPI document says, whatever is sent: `make test-api`. It takes minutes and fetches
//! the program that makes the requests up, so it is not among the other tests.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use crate::{
    backstage::Bench,
    people::Who,
    permissions::{Door, ROUTES, admin},
    shop::{Shop, setting},
};

/// Whoever logs out or changes the password is not signed in for the rest.
const ENDS_THE_SESSION: &str = "^/api/v1/auth/(logout|password)$";

fn run(base: &str, options: &[String]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/schemathesis.sh");
    Command::new(script).arg(base).args(options).output().unwrap()
}

fn assert_fits(who: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "as {who}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("as {who}:\n{text}");
}

/// The operations that were answered with success so far.
async fn reached(shop: &Shop) -> BTreeSet<(String, String)> {
    let text = shop.http.get(format!("{}/metrics", shop.metrics)).send().await.unwrap().text().await.unwrap();
    let label = |line: &str, name: &str| {
        let rest = line.split(&format!("{name}=\"")).nth(1)?;
        rest.split('"').next().map(str::to_owned)
    };
    let lines = text.lines().filter(|line| line.contains("_count{") && line.contains("status=\"2"));
    lines.filter_map(|line| Some((label(line, "method")?, label(line, "route")?))).collect()
}

#[tokio::test]
#[ignore = "needs schemathesis: make test-api, which the tier app runs too"]
async fn whatever_is_sent_the_answer_is_described_and_no_failure_of_the_server() {
    let media = std::env::temp_dir().join(format!("app-live-{}", uuid::Uuid::new_v4()));
    let amqp = setting("APP_TEST_AMQP_URL");
    let secrets = format!("pay={}", uuid::Uuid::new_v4().simple());
    let shop = Shop::open_with(&[
        ("AMQP_URL", amqp.as_str()),
        ("APP_MEDIA_DIR", media.to_str().unwrap()),
        ("APP_WEBHOOK_SECRETS", &secrets),
    ])
    .await;
    let _bench = Bench::beside(&shop).await;
    let root = admin(&shop).await;
    shop.buy(Who::Session(&root), "PROBE-0", 1).await;
    let token = shop.token(&root, &["read", "order", "admin:read", "admin:write"]).await;
    let header = |name: &str, value: &str| ["--header".to_owned(), format!("{name}: {value}")];
    let session = [
        header("Cookie", &format!("session={}", root.session)).as_slice(),
        &header("X-CSRF-Token", &root.csrf),
        &["--exclude-path-regex".to_owned(), ENDS_THE_SESSION.to_owned()],
    ]
    .concat();
    let token = header("Authorization", &format!("Bearer {token}")).to_vec();
    for (who, options) in [("a guest", Vec::new()), ("an administrator", session), ("an administrator's token", token)]
    {
        let base = shop.base.clone();
        let output = tokio::task::spawn_blocking(move || run(&base, &options)).await.unwrap();
        assert_fits(who, &output);
        let reached = reached(&shop).await;
        eprintln!("{who}: {} operations with success", reached.len());
        let expected = |door: Door| match door {
            Door::Open => true,
            Door::Guests(_) | Door::Owned(_) | Door::Known(_) | Door::Staff | Door::Admin => who != "a guest",
            Door::Session => who == "an administrator",
        };
        // What needs no name in its path and no body is reached by anybody who is let in.
        let missed = ROUTES.iter().filter(|(method, path, door)| {
            *method == "GET"
                && !path.contains('{')
                && expected(*door)
                && !reached.contains(&((*method).to_owned(), (*path).to_owned()))
        });
        assert_eq!(missed.collect::<Vec<_>>(), Vec::<&(&str, &str, Door)>::new(), "as {who}");
        shop.redis.forget_limits().await;
    }
    let log = shop.log.lock().unwrap().join("\n");
    assert!(!log.contains("\"level\":\"ERROR\"") && !log.contains("panicked"), "{log}");
    assert_eq!(shop.call("GET", "/api/v1/me", Who::Session(&root), None).await.0, 200, "still signed in");
    std::fs::remove_dir_all(media).ok();
}
