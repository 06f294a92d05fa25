//! Any text, to the reader of SPIFFE IDs.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::spiffe::read(input));
