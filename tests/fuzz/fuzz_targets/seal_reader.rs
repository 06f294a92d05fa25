//! Any bytes, to everything that reads the sealed form.
#![no_main]

#[path = "../seal_reader.rs"]
mod seal_reader;

libfuzzer_sys::fuzz_target!(|input: &[u8]| seal_reader::read(input));
