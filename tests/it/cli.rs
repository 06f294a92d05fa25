//! The program as a process: help texts, what goes to which stream, and the exit code.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Output, Stdio};

fn tidegate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).env("NO_COLOR", "1").output().unwrap()
}

fn code(args: &[&str]) -> i32 {
    let output = tidegate(args);
    output.status.code().unwrap()
}

const COMMANDS: [&[&str]; 21] = [
    &[],
    &["demo"],
    &["serve"],
    &["check"],
    &["audit"],
    &["audit", "tail"],
    &["audit", "query"],
    &["audit", "verify"],
    &["audit", "proof"],
    &["audit", "export"],
    &["audit", "report"],
    &["audit", "reconcile"],
    &["policy"],
    &["policy", "check"],
    &["policy", "fmt"],
    &["policy", "test"],
    &["policy", "explain"],
    &["policy", "plan"],
    &["policy", "watch"],
    &["certs"],
    &["certs", "init"],
];

#[test]
fn every_help_reads_well() {
    let mut text = String::new();
    for command in COMMANDS {
        let output = tidegate(&[command, &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
        let help = String::from_utf8(output.stdout).unwrap();
        for line in help.lines() {
            assert!(line.chars().count() <= 120, "{command:?}: too wide: {line}");
        }
        let _ = write!(text, "$ tidegate {}\n{help}\n", [command, &["--help"]].concat().join(" "));
    }
    // Blank lines of clap end in spaces.
    let text: String = text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
    insta::assert_snapshot!("help", text);
}

#[test]
fn a_positive_answer_is_0() {
    assert_eq!(code(&["--version"]), 0);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(code(&["certs", "init", dir.path().join("certs").to_str().unwrap()]), 0);
}

#[test]
fn a_negative_answer_is_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    fs::write(&file, "[listen]\n").unwrap();
    let file = file.to_str().unwrap();
    for command in ["check", "serve"] {
        let output = tidegate(&[command, "--config", file]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(text.contains("listen.address") && text.contains("problems"), "{text}");
    }
    let output = tidegate(&["check", "--config", file, "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let problems: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for problem in problems.as_array().unwrap() {
        for key in ["file", "place", "message", "hint"] {
            assert!(problem[key].is_string(), "{problem}");
        }
    }
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["serve"][..],
        &["frobnicate"],
        &["check", "--config"],
        &["demo", "--output", "xml"],
        &["audit", "query", "--journal", "j", "--since", "yesterday"],
        &[],
    ] {
        let output = tidegate(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn what_cannot_run_is_3() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let certs = certs.to_str().unwrap();
    assert_eq!(code(&["certs", "init", certs]), 0);
    let output = tidegate(&["certs", "init", certs]);
    assert_eq!(output.status.code(), Some(3), "nothing is replaced");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("tidegate: ") && text.lines().count() == 1, "{text}");
    let missing = dir.path().join("journal");
    assert_eq!(code(&["audit", "tail", "--journal", missing.to_str().unwrap()]), 3);
}

#[test]
fn why_serve_cannot_start_is_told_on_standard_error_not_to_the_reader_of_listeners() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    fs::write(&file, "[listen]\nadress = \"127.0.0.1:0\"\n").unwrap();
    for (command, on_stdout) in [("serve", false), ("check", true)] {
        let done = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args([command, "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
        assert_eq!(done.status.code(), Some(1), "{command}: {out}{err}");
        assert_eq!(
            (out.contains("adress"), err.contains("adress")),
            (on_stdout, !on_stdout),
            "{command}: {out}{err}"
        );
        assert!(if on_stdout { err.is_empty() } else { out.is_empty() }, "{command}: {out}{err}");
    }
}
