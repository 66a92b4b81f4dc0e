//! The files of `nginx/`, with the manifest's values put in.

use minijinja::context;
use provisioner_core::manifest::{self, Manifest};
use provisioner_core::stack::{File, OnChange, Text};

use super::NAME;
use crate::template::render;
use crate::{app, certificates, media};

/// Path inside the container and content as it is in the repository; a path that ends in `.j2` is a template.
macro_rules! embedded {
    ($($target:literal <- $source:literal),+ $(,)?) => {
        &[$(($target, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../nginx/", $source)))),+]
    };
}

const CONFIGURATION: &[(&str, &str)] = embedded![
    "/etc/nginx/nginx.conf" <- "nginx.conf",
    "/etc/nginx/site/api-limit.conf.j2" <- "site/api-limit.conf.j2",
    "/etc/nginx/site/backends.j2" <- "site/backends.j2",
    "/etc/nginx/site/catalogue-cache-zone.conf" <- "site/catalogue-cache-zone.conf",
    "/etc/nginx/site/catalogue-cache.conf" <- "site/catalogue-cache.conf",
    "/etc/nginx/site/gzip.conf" <- "site/gzip.conf",
    "/etc/nginx/site/limits.conf.j2" <- "site/limits.conf.j2",
    "/etc/nginx/site/log.conf" <- "site/log.conf",
    "/etc/nginx/site/nginx.sh" <- "site/nginx.sh",
    "/etc/nginx/site/proxy.conf" <- "site/proxy.conf",
    "/etc/nginx/site/security-headers.conf" <- "site/security-headers.conf",
    "/etc/nginx/site/server.conf.j2" <- "site/server.conf.j2",
    "/etc/nginx/site/status.conf" <- "site/status.conf",
    "/etc/nginx/site/upstream.conf" <- "site/upstream.conf",
    "/etc/nginx/site/workers.conf.j2" <- "site/workers.conf.j2",
];

/// Where pictures are with a member of their own.
const MEDIA: &[(&str, &str)] = embedded![
    "/etc/nginx/site/media.j2" <- "site/media.j2",
    "/etc/nginx/site/media-upstream.conf" <- "site/media-upstream.conf",
];

const TLS: &[(&str, &str)] = embedded!["/etc/nginx/site/tls.conf" <- "site/tls.conf"];

const TLS_ONLY: &[(&str, &str)] = embedded!["/etc/nginx/site/redirect.conf.j2" <- "site/redirect.conf.j2"];

/// Read at every request.
const CONTENT: &[(&str, &str)] = embedded![
    "/srv/static/index.html" <- "static/index.html",
    "/srv/static/shop.css" <- "static/shop.css",
    "/srv/static/shop.js" <- "static/shop.js",
];

/// User and group of NGINX, Debian's own number.
pub(super) const WWW_DATA: (u32, u32) = (33, 33);
pub(super) const SCRIPT: &str = "/etc/nginx/site/nginx.sh";

/// Every file that NGINX gets. Inside an image with NGINX, `nginx.sh check` checks them.
pub fn rendered_files(manifest: &Manifest) -> Vec<File> {
    let reload = reload();
    let tls = manifest.nginx.tls.as_ref();
    let used = [
        CONFIGURATION,
        if media::is_member(manifest) { MEDIA } else { &[] },
        if tls.is_some() { TLS } else { &[] },
        if tls.is_some_and(|tls| tls.only) { TLS_ONLY } else { &[] },
    ];
    let configuration = used.into_iter().flatten().map(|(path, source)| match path.strip_suffix(".j2") {
        Some(target) => file(target, render(path, source, values(manifest)), reload.clone()),
        None => file(path, (*source).to_owned(), reload.clone()),
    });
    let content = CONTENT.iter().map(|(path, source)| file(path, (*source).to_owned(), OnChange::Nothing));
    let pair = tls.map(|_| pair()).into_iter().flatten();
    configuration.chain(content).chain(pair).collect()
}

/// Key and certificate, whoever they are from.
fn pair() -> [File; 2] {
    let secret = certificates::secret_of(NAME);
    let file = |path: &str, mode, part: &str| File {
        path: path.to_owned(),
        mode,
        owner: WWW_DATA,
        content: Text::new(Text::secret(&format!("{secret}.{part}"))),
        on_change: reload(),
    };
    [file("/etc/nginx/tls/server.crt", 0o444, "crt"), file("/etc/nginx/tls/server.key", 0o400, "key")]
}

/// What makes a running NGINX take over its files.
pub(super) fn reload() -> OnChange {
    OnChange::Reload { check: script("check"), signal: "SIGHUP".to_owned() }
}

/// The script that looks up the backends, with what it shall do then.
pub(super) fn script(then: &str) -> Vec<String> {
    ["/bin/sh", SCRIPT, then].map(str::to_owned).to_vec()
}

fn values(manifest: &Manifest) -> minijinja::Value {
    let nginx = &manifest.nginx;
    let backends: Vec<String> = app::members(manifest).iter().map(ToString::to_string).collect();
    context! {
        workers => nginx.service.cpu_millis.div_ceil(1000).max(1),
        rate => nginx.rate_limit,
        burst => nginx.burst,
        body_max_bytes => nginx.body_max_bytes,
        backends,
        port => manifest.app.port,
        media => media::is_member(manifest).then(|| media::member().to_string()),
        media_port => media::PORT,
        shared_media => manifest.media == Some(manifest::Media::SharedVolume),
        tls => nginx.tls.is_some(),
        tls_only => nginx.tls.as_ref().is_some_and(|tls| tls.only),
        https_suffix => nginx.tls.as_ref().map(|tls| tls.https_port).filter(|port| *port != 443)
            .map(|port| format!(":{port}")).unwrap_or_default(),
        health => manifest.app.health.clone(),
    }
}

fn file(path: &str, content: String, on_change: OnChange) -> File {
    // Nothing secret is in them.
    File { path: path.to_owned(), mode: 0o644, owner: (0, 0), content: Text::new(content), on_change }
}

#[cfg(test)]
mod tests {
    use provisioner_core::manifest::NginxTls;

    use super::*;
    use crate::testing::manifest;

    fn content<'a>(files: &'a [File], path: &str) -> &'a str {
        files.iter().find(|file| file.path == path).unwrap().content.masked()
    }

    /// The bodies of all `location` blocks by their name; no location is nested in another one.
    fn locations(text: &str) -> Vec<(&str, &str)> {
        let parts = text.split("\n    location ").skip(1);
        parts
            .map(|part| part.split_once(" {\n").unwrap())
            .map(|(name, rest)| (name, rest.split_once("\n    }\n").unwrap().0))
            .collect()
    }

    #[test]
    fn what_the_manifest_has_a_say_in() {
        let mut manifest = manifest();
        manifest.app.replicas = 3;
        let files = rendered_files(&manifest);
        let told: Vec<String> = ["api-limit.conf", "backends", "limits.conf", "workers.conf"]
            .iter()
            .map(|name| format!("==> {name}\n{}", content(&files, &format!("/etc/nginx/site/{name}"))))
            .collect();
        insta::assert_snapshot!(told.concat());
    }

    #[test]
    fn every_location_has_the_security_headers() {
        let files = rendered_files(&manifest());
        let server = content(&files, "/etc/nginx/site/server.conf");
        let locations = locations(server);
        assert_eq!(locations.len(), server.matches("location ").count());
        assert!(locations.len() >= 10);
        for (name, body) in locations {
            assert!(body.contains("include site/security-headers.conf;"), "location {name}");
        }
    }

    #[test]
    fn customers_and_checks_share_one_server() {
        let files = rendered_files(&manifest());
        let server = content(&files, "/etc/nginx/site/server.conf");
        assert_eq!(server.matches("\nserver {").count(), 1);
        assert!(server.contains("listen 8080 default_server;\n    listen 8089 default_server;"));
    }

    #[test]
    fn only_orders_are_sent_again() {
        let files = rendered_files(&manifest());
        let server = content(&files, "/etc/nginx/site/server.conf");
        let again: Vec<_> = locations(server)
            .into_iter()
            .filter(|(_, body)| body.contains("non_idempotent"))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(again, ["= /api/v1/orders"]);
        assert!(!content(&files, "/etc/nginx/site/proxy.conf").contains("non_idempotent"));
    }

    #[test]
    fn whatever_reaches_a_backend_is_limited() {
        let files = rendered_files(&manifest());
        for (name, body) in locations(content(&files, "/etc/nginx/site/server.conf")) {
            let is_for_customers = body.contains("proxy_pass http://backends") && name != "= /-/backend";
            assert_eq!(body.contains("include site/api-limit.conf;"), is_for_customers, "location {name}");
        }
    }

    #[test]
    fn no_burst_is_no_argument() {
        let mut manifest = manifest();
        manifest.nginx.burst = 0;
        assert_eq!(content(&rendered_files(&manifest), "/etc/nginx/site/api-limit.conf"), "limit_req zone=api;\n");
    }

    #[test]
    fn a_half_core_has_one_worker() {
        let mut manifest = manifest();
        manifest.nginx.service.cpu_millis = 500;
        let files = rendered_files(&manifest);
        assert!(content(&files, "/etc/nginx/site/workers.conf").contains("worker_processes 1;"));
    }

    #[test]
    fn configuration_is_reloaded_and_content_is_not() {
        for file in rendered_files(&manifest()) {
            let expected = if file.path.starts_with("/etc/nginx/") { reload() } else { OnChange::Nothing };
            assert_eq!(file.on_change, expected, "{}", file.path);
            assert!(!file.content.masked().contains("{{"), "{}", file.path);
        }
    }

    fn encrypted(only: bool) -> Manifest {
        let mut manifest = manifest();
        let names = vec!["localhost".to_owned()];
        manifest.nginx.tls = Some(NginxTls { https_port: 8443, only, names, own: None });
        manifest
    }

    #[test]
    fn without_tls_there_is_no_trace_of_it() {
        let files = rendered_files(&manifest());
        assert!(files.iter().all(|file| !file.path.contains("tls") && file.content.secrets().is_empty()));
        assert!(!content(&files, "/etc/nginx/site/server.conf").contains("listen 8443"));
    }

    #[test]
    fn a_browser_is_bound_to_https_only_where_http_leads_there() {
        let beside = rendered_files(&encrypted(false));
        let server = content(&beside, "/etc/nginx/site/server.conf");
        assert!(server.contains("listen 8080 default_server;\n    listen 8089 default_server;\n    listen 8443 ssl"));
        assert!(server.contains(r#"on      "";"#));
        assert!(beside.iter().all(|file| file.path != "/etc/nginx/site/redirect.conf"));

        let only = rendered_files(&encrypted(true));
        let server = content(&only, "/etc/nginx/site/server.conf");
        assert!(!server.contains("listen 8080 "));
        assert!(server.contains(r#"on      "max-age=63072000";"#));
        assert!(content(&only, "/etc/nginx/site/redirect.conf").contains("return 308 https://$host:8443$request_uri;"));
    }

    #[test]
    fn the_standard_port_is_not_written() {
        let mut manifest = encrypted(true);
        manifest.nginx.tls.as_mut().unwrap().https_port = 443;
        let files = rendered_files(&manifest);
        assert!(content(&files, "/etc/nginx/site/redirect.conf").contains("return 308 https://$host$request_uri;"));
    }

    #[test]
    fn only_nginx_reads_its_key() {
        let files = rendered_files(&encrypted(false));
        let key = files.iter().find(|file| file.path == "/etc/nginx/tls/server.key").unwrap();
        assert_eq!((key.mode, key.owner), (0o400, WWW_DATA));
        assert_eq!(key.content.masked(), "@{secret:tls-nginx.key}");
    }
}
