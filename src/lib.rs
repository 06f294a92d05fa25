//! Tidegate: the governed border between private data and public GPU clusters.
//!
//! The modules stand in the order in which a request travels. Read [`gateway`] first: `enforce` is the whole journey, one line a step.
//! `docs/architecture.md` has the map, the words and the invariants; `tests/it/architecture.rs` enforces who may import whom.

pub mod cli;
pub mod demo;

pub mod app;
pub mod config;

pub mod model;
pub mod net;

pub mod listen;
pub mod message;

pub mod gateway;

pub mod identity;
pub mod inspect;
pub mod limit;
pub mod meter;
pub mod policy;
pub mod protect;
pub mod route;
pub mod upstream;

pub mod audit;
pub mod telemetry;

pub mod admin;
