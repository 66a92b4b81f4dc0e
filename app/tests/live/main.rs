//! The service as a process, against a real PostgreSQL and a real Redis.
//!
//! `APP_TEST_DATABASE_URL`: a role that may create databases. `APP_TEST_REDIS_URL`: a Redis for tests alone.
//! `APP_TEST_ELASTICSEARCH_URL`: an Elasticsearch for tests alone; they take turns, because all use one alias.
//! `APP_TEST_MEDIA_URL`: an NGINX with `nginx/media.conf`, with its user and password.
//! Every test has a database, a Redis database and a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test fails by panicking")]

mod accounts;
mod admin;
mod admin_people;
mod audit;
mod backstage;
mod cache;
mod cart;
mod catalogue;
mod dead_letters;
mod described;
mod docs;
mod gate;
mod history;
mod injection;
mod lifecycle;
mod messaging;
mod orders;
mod outages;
mod people;
mod permissions;
mod search;
mod security;
mod shop;
mod traces;
mod webhooks;
