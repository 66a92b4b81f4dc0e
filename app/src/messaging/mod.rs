//! RabbitMQ: the names of the topology, the envelope, and a connection that confirms.
//!
//! The topology is made by whoever runs the broker. This program only publishes and consumes: its user may not
//! configure anything.

pub(crate) mod backoff;
pub(crate) mod broker;
pub(crate) mod envelope;
pub(crate) mod ladder;
pub(crate) mod pulse;
pub(crate) mod queues;

/// Topic exchange that every event goes to, with the event's type as the routing key.
pub(crate) const EVENTS: &str = "events";
/// Direct exchange in front of the dead letters; the routing key is the queue that gave the message up.
pub(crate) const DEAD: &str = "dead";

/// Direct exchange that leads straight to a queue; the routing key is the queue.
pub(crate) const REQUEUE: &str = "requeue";

pub(crate) const ATTEMPT: &str = "x-attempt";
pub(crate) const REASON: &str = "x-reason";
pub(crate) const ERROR: &str = "x-error";
