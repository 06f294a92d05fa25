//! Cuts and overwrites, to the recovery of the journal.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::journal::read(input));
