//! Any bytes, to everything that reads the sealed form.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::seal_reader::read(input));
