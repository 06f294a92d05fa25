//! Searching the journal by its index: the same answers as reading everything, whatever becomes of the index.

use std::fs;
use std::path::Path;

use tidegate::audit::record::{Ending, Outcome, Verdict};
use tidegate::cli::audit::FilterArgs;
use tidegate::cli::audit::filter::DecisionArg;
use tidegate::cli::audit::query::{QueryArgs, QueryOutput, print, query};
use tidegate::cli::audit::table::Printer;
use tidegate::model::{AuditMode, RecordId};

use crate::journal::{decision, open};

/// Searches with and without the index; the same JSON lines must come. Returns them with the notes.
fn both(journal: &Path, filter: &FilterArgs) -> (String, Vec<String>) {
    let mut notes = Vec::new();
    let mut ask = |no_index| {
        let output = QueryOutput::Json;
        let args =
            QueryArgs { journal: journal.to_owned(), limit: 1000, output, no_index, filter: filter.clone() };
        let found = query(&args, &mut |note| notes.push(note)).unwrap();
        let mut out = Vec::new();
        print(&found.rows, output, &mut Printer::new(None, false), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let (by_index, by_reading) = (ask(false), ask(true));
    assert_eq!(by_index, by_reading, "{filter:?}");
    (by_index, notes)
}

async fn write(journal: &Path, count: usize) -> Vec<RecordId> {
    let audit = open(journal);
    let mut ids = Vec::new();
    for number in 0..count {
        let id = RecordId::new();
        let verdict = if number % 3 == 0 { Verdict::Deny } else { Verdict::Allow };
        let mut record = decision(verdict);
        record.principal.id = format!("https://issuer.example|user-{}", number % 7).into();
        let mut draft = audit.draft(id, AuditMode::BestEffort).unwrap();
        draft.decision(&record).await.unwrap();
        draft.close(&Outcome { status: Some(200), ..Outcome::bare(Ending::Complete) });
        ids.push(id);
    }
    audit.close().await;
    ids
}

fn filters(ids: &[RecordId]) -> Vec<FilterArgs> {
    let none = FilterArgs::default();
    let text = |text: &str| Some(text.to_owned());
    vec![
        FilterArgs { principal: text("user-3"), ..none.clone() },
        FilterArgs { principal: text("mallory"), ..none.clone() },
        FilterArgs { decision: Some(DecisionArg::Deny), ..none.clone() },
        FilterArgs { decision: Some(DecisionArg::Event), ..none.clone() },
        FilterArgs { policy: text("chat-for-research"), route: text("chat"), ..none.clone() },
        FilterArgs { cluster: text("eu"), action: text("infer"), ..none.clone() },
        FilterArgs { team: text("research"), ..none.clone() },
        FilterArgs { id: Some(ids.last().copied().unwrap().into()), ..none },
    ]
}

#[tokio::test]
async fn the_index_finds_what_reading_finds_also_after_more_was_written() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let ids = write(dir.path(), 40).await;
        for filter in filters(&ids) {
            let (_, notes) = both(dir.path(), &filter);
            assert!(notes.is_empty(), "{notes:?}");
        }
        let one = FilterArgs { id: Some(ids[5].into()), ..FilterArgs::default() };
        assert_eq!(both(dir.path(), &one).0.lines().count(), 2, "the decision and its outcome");
    }
}

#[tokio::test]
async fn an_index_of_no_use_is_made_again_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let ids = write(dir.path(), 20).await;
    let wanted = FilterArgs { principal: Some("user-3".into()), ..FilterArgs::default() };
    let (before, _) = both(dir.path(), &wanted);
    let file = dir.path().join("index/journal.sqlite");

    fs::write(&file, b"no database").unwrap();
    let (after, notes) = both(dir.path(), &wanted);
    assert_eq!(after, before);
    assert!(notes.iter().any(|note| note.contains("was damaged")), "{notes:?}");
    assert!(both(dir.path(), &wanted).1.is_empty(), "once is enough");

    // Another journal under the index of this one.
    let other = tempfile::tempdir().unwrap();
    write(other.path(), 30).await;
    both(other.path(), &wanted);
    for entry in fs::read_dir(other.path().join("index")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join("index").join(path.file_name().unwrap())).unwrap();
    }
    let (after, notes) = both(dir.path(), &wanted);
    assert_eq!(after, before);
    assert!(notes.iter().any(|note| note.contains("does not fit the journal")), "{notes:?}");

    // Where nothing can be written, everything is read: here a file stands where the directory should.
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    fs::write(dir.path().join("index"), b"").unwrap();
    let by_id = FilterArgs { id: Some(ids[0].into()), ..FilterArgs::default() };
    let (found, notes) = both(dir.path(), &by_id);
    assert_eq!(found.lines().count(), 2);
    assert!(notes.iter().any(|note| note.contains("the whole journal is read instead")), "{notes:?}");
}
