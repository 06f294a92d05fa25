//! The program as a process: what goes to which stream, and the exit code.

use std::fs;
use std::process::{Command, Stdio};

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
