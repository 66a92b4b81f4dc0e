//! The service as a process, against a real PostgreSQL and a real Redis.
//!
//! `APP_TEST_DATABASE_URL`: a role that may create databases. `APP_TEST_REDIS_URL`: a Redis for tests alone.
//! `APP_TEST_ELASTICSEARCH_URL`: an Elasticsearch for tests alone; they take turns, because all use one alias.
//! Every test has a database, a Redis database and a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test fails by panicking")]

mod catalogue;
mod gate;
mod lifecycle;
mod messaging;
mod messaging_bench;
mod orders;
mod outages;
mod search;
mod shop;
