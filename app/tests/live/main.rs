//! The service as a process, against a real PostgreSQL and a real Redis.
//!
//! `APP_TEST_DATABASE_URL`: a role that may create databases. `APP_TEST_REDIS_URL`: a Redis for tests alone.
//! Every test has a database, a Redis database and a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test fails by panicking")]

mod catalogue;
mod gate;
mod lifecycle;
mod orders;
mod outages;
mod shop;
