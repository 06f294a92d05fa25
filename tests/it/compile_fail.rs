//! What must not compile: a permit or a sendable request made by anyone but `policy` and `protect`.
//!
//! The compiler is called on each file of `tests/compile_fail/` with the library that this test is linked with; the file's
//! first line names the error that it must give.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[test]
fn forging_a_permit_or_an_outbound_does_not_compile() {
    let dependencies = env::current_exe().unwrap().parent().unwrap().to_owned();
    let library = newest(&dependencies, "libtidegate-", "rlib");
    let scratch = tempfile::tempdir().unwrap();
    let mut tried = 0;
    for entry in fs::read_dir("tests/compile_fail").unwrap() {
        let file = entry.unwrap().path();
        let source = fs::read_to_string(&file).unwrap();
        let expected = source.lines().next().unwrap().trim_start_matches("//").trim().to_owned();
        let mut library = OsString::from(&library);
        library = [OsString::from("tidegate="), library].into_iter().collect();
        let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition", "2024", "--crate-type", "bin", "--emit", "metadata", "-o"])
            .arg(scratch.path().join("out"))
            .arg("-L")
            .arg(
                [OsString::from("dependency="), dependencies.clone().into()]
                    .into_iter()
                    .collect::<OsString>(),
            )
            .arg("--extern")
            .arg(library)
            .arg(&file)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        if expected == "compiles" {
            assert!(output.status.success(), "{}: {errors}", file.display());
        } else {
            assert!(!output.status.success(), "{} compiled", file.display());
            assert!(errors.contains(&format!("error[{expected}]")), "{}: {errors}", file.display());
            assert!(!errors.contains("error[E0463]"), "{}: the library was not found", file.display());
        }
        tried += 1;
    }
    assert!(tried >= 4, "only {tried} files in tests/compile_fail");
}

fn newest(dir: &Path, prefix: &str, extension: &str) -> PathBuf {
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(prefix) && path.extension().is_some_and(|found| found == extension)
    };
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(ours);
    files.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap()
}
