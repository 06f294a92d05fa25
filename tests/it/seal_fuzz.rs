//! The fuzzer's corpus, replayed: what it once found stays fixed. `docs/fuzzing.md` says how to run the fuzzer itself.

use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;

#[path = "../fuzz/seal_reader.rs"]
mod seal_reader;

/// All inputs, read once.
fn files() -> &'static [Vec<u8>] {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/seal_reader");
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
    })
}

#[test]
fn the_corpus_does_no_harm() {
    for bytes in files() {
        // Each input to each reader, in small and large pieces.
        for choice in 0..8 {
            let mut input = bytes.clone();
            if let Some(first) = input.first_mut() {
                *first = (choice & 3) | ((choice >> 2) * 0xfc);
            }
            seal_reader::read(&input);
        }
        seal_reader::read(bytes);
    }
    assert!(files().len() > 20);
}

proptest! {
    #[test]
    fn inputs_near_the_corpus_do_no_harm(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut input = which.get(files()).clone();
        for (at, value) in edits {
            let at = at.index(input.len());
            input[at] = value;
        }
        seal_reader::read(&input);
        input.truncate(cut.index(input.len()));
        seal_reader::read(&input);
    }
}
