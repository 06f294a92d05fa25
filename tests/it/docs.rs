//! The generated pages are what the code says. `UPDATE_DOCS=1 cargo test --test it docs` writes them.

use std::fs;

fn current(path: &str, generated: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, generated).unwrap();
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    assert!(written == generated, "{path} is stale: run `UPDATE_DOCS=1 cargo test --test it docs`");
}

#[test]
fn the_configuration_reference_is_current() {
    current("docs/configuration.md", &tidegate::config::reference::markdown());
}

#[test]
fn the_configuration_schema_is_current() {
    current("docs/configuration.schema.json", &tidegate::config::reference::json_schema());
}

#[test]
fn the_record_schema_is_current() {
    current("docs/audit-record.schema.json", &tidegate::audit::record::schema::json_schema());
}

#[test]
fn the_error_reference_is_current() {
    current("docs/errors.md", &tidegate::gateway::codes::markdown());
}

/// Every code that a stage can give is in the table, with the stage's status.
#[test]
fn every_code_in_the_source_is_in_the_table() {
    let known: std::collections::BTreeSet<&str> =
        tidegate::gateway::codes::ALL.iter().map(|code| code.name).collect();
    let mut unknown = Vec::new();
    for stage in
        ["message", "route", "identity", "inspect", "policy", "limit", "protect", "upstream", "listen"]
    {
        for entry in walk(&std::path::PathBuf::from(format!("src/{stage}"))) {
            let text = fs::read_to_string(&entry).unwrap();
            let Some((_, body)) = text.split_once("fn code(") else { continue };
            let body = body.split("\n    }\n").next().unwrap();
            for literal in body.split('"').skip(1).step_by(2) {
                if !known.contains(literal) {
                    unknown.push(format!("{}: `{literal}`", entry.display()));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "not in gateway/codes.rs: {}", unknown.join(", "));
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The reference has a column for defaults: prose that repeats one grows stale, and a dash needs words.
/// A promise names the test that holds it; a test that moved must not leave its name behind.
#[test]
fn files_that_the_tables_of_promises_name_are_there() {
    for page in ["README.md", "docs/reliability.md", "docs/security.md"] {
        let text = fs::read_to_string(page).unwrap();
        for named in text.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "tests/"].iter().any(|folder| named.starts_with(folder));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
            if is_path && named.bytes().all(plain) {
                assert!(fs::exists(named).unwrap(), "{page} names `{named}`, which is not there");
            }
        }
    }
}

#[test]
fn each_default_is_said_once() {
    let page = fs::read_to_string("docs/configuration.md").unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    for row in rows {
        let meaning = row.rsplit_once(" | ").unwrap().1;
        assert!(!meaning.contains("Default"), "repeats its default: {row}");
        let says = ["Absent", "absent", "Required", "Exactly one"].iter().any(|word| meaning.contains(word));
        assert!(says || !row.contains(" | – | "), "does not say what its absence means: {row}");
    }
}
