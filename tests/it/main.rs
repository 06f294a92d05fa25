//! Integration tests: real sockets, real files, the library from outside. One file a stage.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod architecture;
mod audit_report;
mod border;
mod cli;
mod compile_fail;
mod config;
mod docs;
mod fault;
mod fuzz;
mod gate;
mod identity;
mod inspect;
mod journal;
mod journal_keep;
mod journal_tree;
mod listen;
mod meter;
mod net;
mod outbox;
mod policy;
mod policy_broken;
mod policy_cli;
mod policy_plan;
mod power;
mod protect;
mod review;
mod seal;
mod seal_vectors;
mod upstream;
