//! Raw HTTP/1 bytes, to the scan of heads and the gate.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::gate::read(input));
