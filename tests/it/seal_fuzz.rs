//! The fuzzer's corpus, replayed: what it once found stays fixed. `docs/fuzzing.md` says how to run the fuzzer itself.

use std::path::{Path, PathBuf};

#[path = "../fuzz/seal_reader.rs"]
mod seal_reader;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/seal_reader")
}

#[test]
fn the_corpus_does_no_harm() {
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        // Each input to each reader, in small and large pieces.
        for choice in 0..8 {
            let mut input = bytes.clone();
            if let Some(first) = input.first_mut() {
                *first = choice & 3 | (choice >> 2) * 0xfc;
            }
            seal_reader::read(&input);
        }
        seal_reader::read(&bytes);
        inputs += 1;
    }
    assert!(inputs > 20, "{inputs}");
}
