//! The fuzzer's corpora, replayed: what it once found stays fixed. `docs/fuzzing.md` says how to run the fuzzer itself.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "../fuzz/targets/mod.rs"]
mod targets;

/// All inputs of a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_corpora_do_no_harm() {
    for (name, read) in targets::ALL {
        let inputs = corpus(name);
        assert!(inputs.len() > 5, "{name} has no corpus");
        inputs.iter().for_each(|input| read(input));
    }
}

#[test]
fn each_reader_of_the_sealed_form_gets_each_input() {
    for bytes in corpus("seal_reader") {
        // In small and large pieces.
        for choice in 0..8 {
            let mut input = bytes.clone();
            if let Some(first) = input.first_mut() {
                *first = (choice & 3) | ((choice >> 2) * 0xfc);
            }
            targets::seal_reader::read(&input);
        }
    }
}

#[test]
fn inputs_near_the_corpora_do_no_harm() {
    let edit = || (any::<prop::sample::Index>(), any::<u8>());
    let edits =
        (any::<prop::sample::Index>(), prop::collection::vec(edit(), 1..6), any::<prop::sample::Index>());
    for (name, read) in targets::ALL {
        let inputs = corpus(name);
        // These touch the disk for each input.
        let cases = if matches!(name, "journal" | "bundle" | "key_set") { 60 } else { 256 };
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&edits, |(which, edits, cut)| {
            let mut input = which.get(&inputs).clone();
            if input.is_empty() {
                return Ok(());
            }
            for (at, value) in edits {
                let at = at.index(input.len());
                input[at] = value;
            }
            read(&input);
            input.truncate(cut.index(input.len()));
            read(&input);
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{name}: {error}");
        }
    }
}
