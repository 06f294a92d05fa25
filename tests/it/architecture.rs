//! The house rules that the compiler cannot see: who imports whom, and where the big libraries may be named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const STAGES: &[&str] =
    &["route", "identity", "inspect", "policy", "limit", "protect", "upstream", "meter", "audit"];

/// What a module may import besides `model`, or `None` if it may import everything below it.
fn may_import(module: &str) -> Option<BTreeSet<&'static str>> {
    let list: &[&str] = match module {
        "model" | "net" => &[],
        "listen" => &["net", "message"],
        "message" => &["net"],
        "route" | "identity" | "inspect" | "policy" => &["message", "net"],
        "protect" | "limit" | "meter" | "audit" => &["message", "net", "policy"],
        "upstream" => &["message", "net", "policy", "protect"],
        "telemetry" => &["net", "message"],
        "gateway" => &[
            "message",
            "net",
            "telemetry",
            "route",
            "identity",
            "inspect",
            "policy",
            "limit",
            "protect",
            "upstream",
            "meter",
            "audit",
        ],
        "admin" => &["gateway", "listen", "policy", "meter", "audit", "message", "net", "telemetry"],
        "config" => &[
            "route",
            "identity",
            "inspect",
            "policy",
            "limit",
            "protect",
            "upstream",
            "meter",
            "audit",
            "listen",
            "message",
            "net",
            "telemetry",
            "gateway",
            "admin",
        ],
        "cli" => &["app", "demo", "config", "policy", "audit", "protect", "meter", "net"],
        _ => return None,
    };
    Some(list.iter().copied().collect())
}

/// Stages may name these of their siblings and nothing else.
fn sibling_exception(module: &str, path: &str) -> bool {
    match module {
        "limit" | "protect" | "meter" | "audit" => path == "policy::Permit",
        "upstream" => path == "policy::Permit" || path == "protect::Outbound",
        _ => false,
    }
}

const LIBRARIES: &[(&str, &[&str])] = &[
    ("cedar_policy", &["policy"]),
    ("rustls", &["net", "listen", "identity/mtls"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_proto", &["audit/outbox", "telemetry"]),
];

#[test]
fn imports_follow_the_table() {
    let mut wrong = Vec::new();
    for (module, file, text) in sources() {
        let own = |name: &str| name == module || name == "model";
        for path in crate_paths(&text) {
            let name = path.split("::").next().unwrap();
            if own(name) {
                continue;
            }
            let allowed = match may_import(&module) {
                None => true,
                Some(list) if STAGES.contains(&module.as_str()) && STAGES.contains(&name) => {
                    list.contains(name) && sibling_exception(&module, &first_two(&path))
                }
                Some(list) => list.contains(name),
            };
            if !allowed {
                wrong.push(format!("{}: `{module}` may not import `{path}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn libraries_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for (_, file, text) in sources() {
        for (library, places) in LIBRARIES {
            let inside = places.iter().any(|place| {
                file.starts_with(format!("src/{place}")) || file == Path::new(&format!("src/{place}.rs"))
            });
            if !inside && text.contains(&format!("{library}::")) {
                wrong.push(format!("{}: names `{library}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<String> = sources()
        .filter(|(_, _, text)| !text.starts_with("//!"))
        .map(|(_, file, _)| file.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no `//!` at the top of: {}", silent.join(", "));
}

/// Every source file with its top-level module; comments and tests are cut away.
fn sources() -> impl Iterator<Item = (String, PathBuf, String)> {
    let mut files = Vec::new();
    walk(Path::new("src"), &mut files);
    files.into_iter().filter_map(|file| {
        let inside = file.strip_prefix("src").unwrap();
        let module = inside.components().next()?.as_os_str().to_str()?.trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            return None;
        }
        let text = fs::read_to_string(&file).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
        let code: Vec<&str> = product
            .lines()
            .enumerate()
            .filter(|(i, l)| *i == 0 || !l.trim_start().starts_with("//"))
            .map(|(_, l)| l)
            .collect();
        Some((module, file, code.join("\n")))
    })
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// `a::B` for each `crate::a::B`, also out of `use crate::a::{B, C}`.
fn crate_paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in text.split("crate::").skip(1) {
        let path: String =
            part.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
        if path.is_empty() && part.starts_with('{') {
            let names = part.trim_start_matches('{').split('}').next().unwrap();
            found.extend(names.split(',').map(|name| name.trim().to_owned()));
        } else if let Some(inner) = part.strip_prefix(&path).and_then(|rest| rest.strip_prefix('{'))
            && path.ends_with("::")
        {
            let names = inner.split('}').next().unwrap();
            found.extend(names.split(',').map(|name| format!("{path}{}", name.trim())));
        } else {
            found.push(path);
        }
    }
    found
}

fn first_two(path: &str) -> String {
    path.split("::").take(2).collect::<Vec<_>>().join("::")
}
