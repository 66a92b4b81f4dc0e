//! Whole verbs against the memory engine: every line that a person or a program reads, and every exit code.

mod binary;
mod change;
mod data;
mod look;
mod player;
mod plans;
mod safety;
mod world;
