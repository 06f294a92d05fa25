//! `tidegate policy` as a process: on the shipped policies, on broken ones, and what it writes for programs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tidegate::policy::embedded;

fn policy(dir: &Path, args: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("policy")
        .args(args)
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(stderr.is_empty() || status.code() != Some(0), "{}", String::from_utf8_lossy(&stderr));
    let text = String::from_utf8([stdout, stderr].concat()).unwrap();
    (status.code().unwrap(), text)
}

/// The shipped policies with their tests and invariants, in `policies` of a new directory.
fn shipped() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let policies = dir.path().join("policies");
    embedded::write_to(&policies).unwrap();
    dir
}

fn edit(dir: &Path, file: &str, from: &str, to: &str) {
    let path = dir.join("policies").join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no `{from}`");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn the_shipped_policies_pass_everything() {
    let dir = shipped();
    let (code, text) = policy(dir.path(), &["check", "--strict"]);
    assert_eq!((code, text.as_str()), (0, "14 policies: no problems\n"));
    assert_eq!(policy(dir.path(), &["fmt", "--check"]), (0, "8 files, all laid out\n".into()));
    let (code, text) = policy(dir.path(), &["test", "--coverage", "100"]);
    assert!(
        code == 0
            && text.contains(
                "44 of 44 cases as expected; 14 of 14 policies decided, 24 of 24 conditions covered (100 %)"
            ),
        "{text}"
    );
    // Those of a far side too.
    let far = dir.path().join("far");
    embedded::write(embedded::FAR_SIDE, &far).unwrap();
    assert_eq!(policy(dir.path(), &["check", "--strict", "far"]), (0, "3 policies: no problems\n".into()));
    assert_eq!(policy(dir.path(), &["fmt", "--check", "far"]).0, 0);
}

#[test]
fn errors_show_the_line_and_programs_get_the_same() {
    let dir = shipped();
    edit(dir.path(), "20-inference.cedar", "context.data.level <= 1", "context.data.levle <= 1");
    edit(dir.path(), "30-data.cedar", "@owner(\"security\")\n", "");
    fs::write(dir.path().join("policies/tests/more.toml"), "[cases]\n\"a\" = { alow = true }\n").unwrap();
    let (code, text) = policy(dir.path(), &["check"]);
    assert_eq!(code, 1);
    insta::assert_snapshot!("check", text);

    let (_, text) = policy(dir.path(), &["check", "--output", "json"]);
    let findings: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(
        findings.iter().any(|f| f["file"] == "policies/20-inference.cedar" && f["line"].as_u64() > Some(50))
    );
    let (_, text) = policy(dir.path(), &["check", "--output", "sarif"]);
    let sarif: serde_json::Value = serde_json::from_str(&text).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!((results.len(), &sarif["version"]), (findings.len(), &"2.1.0".into()));
    let region = &results[0]["locations"][0]["physicalLocation"]["region"];
    assert_eq!(
        (&region["startLine"], &region["startColumn"]),
        (&findings[0]["line"], &findings[0]["column"])
    );
}

#[test]
fn advice_counts_only_if_strict() {
    let dir = shipped();
    edit(
        dir.path(),
        "30-data.cedar",
        "@absence(\"without an agent in the chain there is none to forbid\")\n",
        "",
    );
    let (code, text) = policy(dir.path(), &["check"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!("advice", text);
    assert_eq!(policy(dir.path(), &["check", "--strict"]).0, 1);
}

#[test]
fn a_case_that_fails_says_what_happened_instead() {
    let dir = shipped();
    edit(dir.path(), "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2");
    let (code, text) = policy(dir.path(), &["test", "--junit", "junit.xml", "--filter", "marketing"]);
    assert_eq!(code, 1);
    let text: String = text
        .lines()
        .map(|line| line.split(" ms").next().unwrap().trim_end_matches(char::is_numeric).to_owned() + "\n")
        .collect();
    insta::assert_snapshot!("failed", text);
    let junit = fs::read_to_string(dir.path().join("junit.xml")).unwrap();
    assert!(
        junit.contains(r#"tests="2" skipped="0" failures="1""#) && junit.contains("it must be denied"),
        "{junit}"
    );
}

#[test]
fn too_little_coverage_is_a_negative_answer() {
    let dir = shipped();
    fs::remove_file(dir.path().join("policies/tests/services.toml")).unwrap();
    let (code, text) = policy(dir.path(), &["test", "--coverage", "95"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("- status-for-anyone decided in no case")
            && text.contains("coverage is 92 %, 95 % is wanted"),
        "{text}"
    );
    assert_eq!(policy(dir.path(), &["test", "--coverage", "92"]).0, 0);
    let (_, text) = policy(dir.path(), &["test", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (report["cases"].as_array().unwrap().len(), report["coverage"].as_array().unwrap().len()),
        (41, 14)
    );
}

#[test]
fn without_tests_or_policies_it_says_what_to_do() {
    let dir = shipped();
    let (code, text) = policy(dir.path(), &["test", "--filter", "no such case"]);
    assert!(code == 3 && text.contains("no case in `policies` is called `no such case`"), "{text}");
    fs::remove_dir_all(dir.path().join("policies/tests")).unwrap();
    let (code, text) = policy(dir.path(), &["test"]);
    assert!(code == 1 && text.contains("policies/tests: cannot list the directory"), "{text}");
    assert_eq!(policy(dir.path(), &["check", "--strict"]).0, 0, "tests are optional");
    fs::remove_dir_all(dir.path().join("policies/invariants")).unwrap();
    assert_eq!(policy(dir.path(), &["check", "--strict"]).0, 0, "invariants too");
    let (code, text) = policy(dir.path(), &["check", "nowhere"]);
    assert!(code == 1 && text.contains("nowhere"), "{text}");
}

#[test]
fn laying_out_changes_the_layout_alone() {
    let dir = shipped();
    let file = dir.path().join("policies/40-services.cedar");
    let good = fs::read_to_string(&file).unwrap();
    let squeezed = good.lines().map(|line| {
        if line.starts_with("//") || line.starts_with('@') {
            format!("{line}\n")
        } else {
            format!("{} ", line.trim())
        }
    });
    fs::write(&file, squeezed.collect::<String>()).unwrap();
    let (code, text) = policy(dir.path(), &["fmt", "--check"]);
    assert_eq!(
        (code, text.as_str()),
        (1, "policies/40-services.cedar: is not laid out: run `tidegate policy fmt`\n")
    );
    assert_eq!(policy(dir.path(), &["fmt"]), (0, "policies/40-services.cedar: laid out\n".into()));
    let again = fs::read_to_string(&file).unwrap();
    assert_eq!(again.split_whitespace().collect::<Vec<_>>(), good.split_whitespace().collect::<Vec<_>>());
    fs::write(&file, "permit (").unwrap();
    let (code, text) = policy(dir.path(), &["fmt"]);
    assert!(code == 1 && text.contains("40-services.cedar: "), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "permit (", "what does not parse stays as it is");
}

#[test]
fn explaining_tells_who_decided_and_what_was_missing() {
    let dir = shipped();
    let mut all = String::new();
    for (wanted, args) in [
        (
            1,
            &["action=infer", "team=marketing", "model=eu/tide-small", "level=confidential", "residency=EU"]
                [..],
        ),
        (0, &["--case", "clinical, restricted goes sealed"]),
        (1, &["--case", "clinical, restricted goes sealed", "purpose=fun"]),
        (1, &["action=infer", "team=research", "model=eu/tide-small", "residency=mars", "level=public"]),
        (3, &["action=infer", "team=research"]),
        (3, &["action=infer", "colour=red"]),
        (3, &["--case", "no such"]),
    ] {
        let (code, text) = policy(dir.path(), &[&["explain"], args].concat());
        assert_eq!(code, wanted, "{args:?}: {text}");
        all += &format!("$ tidegate policy explain {}\n{text}\n", args.join(" "));
    }
    insta::assert_snapshot!("explain", all);
    let (_, text) = policy(dir.path(), &["explain", "--case", "agents do not", "--output", "json"]);
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&said["decision"], &said["code"]), (&"deny".into(), &"policy_forbidden".into()));
    let policies = said["asked"][0]["policies"].as_array().unwrap();
    let never = policies.iter().find(|policy| policy["id"] == "agents-never-delete").unwrap();
    assert!(never["matches"] == true && policies.len() == 14, "{never}");
}

#[test]
fn watching_sees_what_is_saved() {
    use std::io::{BufRead as _, BufReader};
    let dir = shipped();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["policy", "watch", "--case", "marketing, confidential"])
        .current_dir(dir.path())
        .env("NO_COLOR", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut until = |what: &str| lines.by_ref().find(|line| line.contains(what)).is_some_and(|_| true);
    assert!(
        until("14 policies: no problems")
            && until("44 of 44")
            && until("denied: no policy permits this")
            && until("watching policies")
    );
    edit(dir.path(), "20-inference.cedar", "context.data.level <= 1", "context.data.level <= 2");
    assert!(
        until("✗ marketing, confidential")
            && until("43 of 44")
            && until("allowed: infer of eu/tide-small")
            && until("watching")
    );
    edit(dir.path(), "20-inference.cedar", "permit (", "permit ((");
    assert!(until("error: unexpected token") && until("watching"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_folder_that_is_not_there_is_not_watched() {
    let dir = shipped();
    for args in [["watch", "nowhere"].as_slice(), &["test", "nowhere", "--watch"]] {
        let (code, text) = policy(dir.path(), args);
        assert!(code == 3 && text.contains("there is no folder `nowhere` to watch"), "{text}");
    }
}

/// A slip in a name is told, and what was meant, before anybody relies on the answer.
#[test]
fn names_that_nobody_knows_are_told() {
    let dir = shipped();
    let cases = "[defaults]\naction = \"infer\"\nmodel = \"eu/tide-small\"\nresidency = [\"EU\"]\nlevel = \"internal\"\n\n[cases]\n\
                 \"passes for nothing\" = { team = \"reserch\", deny = true }\n\
                 \"another code\" = { team = \"ops\", deny = \"policy_denid\" }\n\
                 \"another policy\" = { team = \"research\", allow = \"research-model\" }\n\
                 \"the code of a forbid\" = { team = \"research\", level = \"restricted\", deny = \"policy_forbidden\" }\n\
                 \"meant\" = { team = \"research\", model = \"eu/ghost\", deny = \"unknown_entity\" }\n";
    fs::write(dir.path().join("policies/tests/names.toml"), cases).unwrap();
    let (code, text) = policy(dir.path(), &["test", "--filter", "names.toml", "--junit", "junit.xml"]);
    assert_eq!(code, 1);
    for part in [
        "! passes for nothing",
        "names the team `reserch`, which the entities do not know: did you mean `research`?",
        "there is no policy `policy_denid`; did you mean `policy_denied`?",
        "there is no policy `research-model`; did you mean `research-models`?",
        "3 of 5 cases as expected",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    let junit = fs::read_to_string(dir.path().join("junit.xml")).unwrap();
    assert!(junit.contains("<system-err>names the team `reserch`"), "{junit}");
    let (code, text) = policy(dir.path(), &["check"]);
    assert!(
        code == 0
            && text.contains("warning: case `passes for nothing` names the team `reserch`")
            && text.contains("--> policies/tests/names.toml, line 8, column 1")
            && text.ends_with("14 policies: no errors, 1 warning\n"),
        "{text}"
    );

    let ask = ["action=infer", "team=reserch", "model=eu/tide-small", "level=public", "residency=EU"];
    let (code, text) = policy(dir.path(), &[["explain"].as_slice(), &ask].concat());
    let warning = "warning: the request names the team `reserch`, which the entities do not know: did you mean `research`?\n";
    assert!(code == 1 && text.starts_with(warning), "{text}");
    let (_, text) = policy(dir.path(), &[["explain", "--output", "json"].as_slice(), &ask].concat());
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(said["warnings"].as_array().map(Vec::len), Some(1));
    assert_eq!(said["asked"][0]["nearest"][0]["lacks"].as_array().map(Vec::len), Some(1), "{said:#}");
    for (args, part) in [
        (
            ["explain", "--case", "marketing, confidentia"].as_slice(),
            "did you mean `marketing, confidential`?",
        ),
        (&["explain", "action=inferr"], "did you mean `infer`?"),
        (&["explain", "tema=research"], "did you mean `team`?"),
        (&["chek"], "'check'"),
        (&["explain", "--polices", "p"], "'--policies'"),
    ] {
        let (code, text) = policy(dir.path(), args);
        assert!(code > 1 && text.contains(part), "`{part}` is not in\n{text}");
    }
    fs::write(dir.path().join("policies/tests/names.toml"), "[cases]\na = { alow = true }\n").unwrap();
    assert!(policy(dir.path(), &["test"]).1.contains("did you mean `allow`?"));
}

/// What a key file must be is said where it is refused.
#[test]
fn a_key_that_others_may_read_signs_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = shipped();
    let key = dir.path().join("policy.pem");
    tidegate::audit::tree::key::make(&key).unwrap();
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, text) = policy(dir.path(), &["bundle", "--key", "policy.pem", "--serial", "9"]);
    let said = "secret file `policy.pem` has mode 0644: others can read it, and it must have mode 0600";
    assert!(code == 3 && text.matches(said).count() == 1, "{text}");
}

/// A release as an operator makes it, and every way in which it is none.
#[test]
fn a_release_is_verified_as_a_gateway_does() {
    let dir = shipped();
    let at = |name: &str| dir.path().join(name);
    let key = |name: &str| {
        tidegate::audit::tree::key::make(&at(name)).unwrap();
        let (_, text) = policy(dir.path(), &["bundle", "--key", name, "--serial", "1", "--out", "x.tar.gz"]);
        text.split('"').nth(1).unwrap().to_owned()
    };
    let (ours, other) = (key("policy.pem"), key("other.pem"));
    let bundle = |args: &[&str]| {
        let usual = ["bundle", "--key", "policy.pem", "--out", "bundle.tar.gz", "--serial"];
        let (code, text) = policy(dir.path(), &[usual.as_slice(), args].concat());
        assert_eq!(code, 0, "{text}");
    };
    let verify = |args: &[&str]| policy(dir.path(), &[["verify"].as_slice(), args].concat());
    bundle(&["7", "--expires", "2099-01-01T00:00:00Z"]);
    let (code, text) = verify(&["bundle.tar.gz", "--key", &ours, "--after", "6"]);
    let hash = embedded::bundle().unwrap().hash().to_owned();
    let expected = format!(
        "bundle.tar.gz: bundle {hash}\n  ✓ archive    6 files\n  ✓ signature  by {}\n  ✓ files      are those that the manifest names\n  \
         ✓ serial     7, after 6\n  ✓ expiry     2099-01-01T00:00:00Z\n  · proof      nothing is attested; none is demanded\n  \
         ✓ policies   14 policies\na gateway takes it\n",
        ours.splitn(3, '+').take(2).collect::<Vec<_>>().join("+")
    );
    assert_eq!((code, text), (0, expected));
    let (_, text) = verify(&["bundle.tar.gz", "--key", &other, "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&json["taken"], &json["manifest"]["serial"], &json["bundle"]),
        (&false.into(), &7.into(), &hash.into())
    );
    assert_eq!(
        (&json["checks"][1]["what"], &json["checks"][1]["outcome"]),
        (&"signature".into(), &"wrong".into())
    );

    let refused = |args: &[&str], part: &str| {
        let (code, text) = verify(args);
        assert!(
            code == 1 && text.contains(part) && text.ends_with("a gateway refuses it\n"),
            "`{part}` is not in\n{text}"
        );
    };
    refused(&["bundle.tar.gz", "--key", &other], "✗ signature  the manifest cannot be verified");
    refused(
        &["bundle.tar.gz", "--key", &ours, "--after", "7"],
        "✗ serial     has serial 7, under which another",
    );
    refused(
        &["bundle.tar.gz", "--key", &ours, "--after", "8"],
        "✗ serial     has serial 7, and 8 was served",
    );
    refused(&["bundle.tar.gz", "--key", &ours, "--proved"], "✗ proof      has no attestation");
    refused(&["bundle.tar.gz", "--key", &ours, "--proved"], "✓ policies   14 policies");
    refused(&["bundle.tar.gz", "--key", &ours, "--claim", "mine"], "✗ proof      has no attestation");
    assert_eq!(verify(&["nowhere.tar.gz", "--key", &ours]).0, 3);
    let whole = fs::read(at("bundle.tar.gz")).unwrap();
    fs::write(at("half.tar.gz"), &whole[..whole.len() / 2]).unwrap();
    refused(&["half.tar.gz", "--key", &ours], "✗ archive    is no whole tar.gz");
    // Other files under the same manifest.
    let unpacked = tidegate::policy::release::unpack(&whole).unwrap();
    let manifest = String::from_utf8(unpacked.manifest.unwrap()).unwrap();
    let mut files = unpacked.files;
    files.iter_mut().find(|(name, _)| name == "10-safety.cedar").unwrap().1.extend(b"// more\n");
    fs::write(at("more.tar.gz"), tidegate::policy::release::pack(&manifest, &files).unwrap()).unwrap();
    refused(&["more.tar.gz", "--key", &ours], "✗ files      the manifest is of another bundle");
    files.iter_mut().find(|(name, _)| name == "10-safety.cedar").unwrap().1.extend(b"permit (");
    fs::write(at("broken.tar.gz"), tidegate::policy::release::pack(&manifest, &files).unwrap()).unwrap();
    refused(&["broken.tar.gz", "--key", &ours], "✗ policies   broken.tar.gz/10-safety.cedar, line");
    let none = tidegate::policy::release::Manifest::read(manifest.as_bytes(), &[]).unwrap().0;
    let old = tidegate::policy::release::Manifest { expires: Some(jiff::Timestamp::UNIX_EPOCH), ..none };
    fs::write(
        at("old.tar.gz"),
        tidegate::policy::release::pack(&old.file(None).unwrap(), embedded::bundle().unwrap().files())
            .unwrap(),
    )
    .unwrap();
    refused(&["old.tar.gz", "--key", &ours], "✗ expiry     expired on 1970-01-01T00:00:00Z");
    refused(&["old.tar.gz", "--key", &ours], "✗ signature  the manifest is not signed");
    // A folder, and wrong usage.
    assert_eq!(policy(dir.path(), &["bundle", "--key", "policy.pem", "--serial", "8"]).0, 0);
    let (code, text) = verify(&["policies", "--key", &ours]);
    assert!(code == 0 && text.contains("8; which was served last is not known"), "{text}");
    assert_eq!(verify(&["bundle.tar.gz"]).0, 2);
}

/// The fenced block of that language in which the text stands.
fn block<'a>(page: &'a str, language: &str, text: &str) -> &'a str {
    let mut blocks = page.split("```").skip(1).step_by(2);
    let found = blocks.find(|block| block.starts_with(language) && block.contains(text));
    found.unwrap_or_else(|| panic!("no {language} block with {text}")).split_once('\n').unwrap().1
}

#[test]
fn the_page_can_be_followed() {
    let page = fs::read_to_string("docs/policies.md").unwrap();
    let dir = shipped();
    let policies = dir.path().join("policies");
    fs::write(policies.join("tests/sales.toml"), block(&page, "toml", "sales, internal")).unwrap();
    let (code, text) = policy(dir.path(), &["test"]);
    assert!(code == 1 && text.contains("there is no policy `sales-models`"), "{text}");
    let team = block(&page, "json", "Tidegate::Team");
    edit(
        dir.path(),
        "entities.json",
        "  {\"uid\": {\"type\": \"Tidegate::Team\"",
        &format!("  {team}  {{\"uid\": {{\"type\": \"Tidegate::Team\""),
    );
    let inference = policies.join("20-inference.cedar");
    let before = fs::read_to_string(&inference).unwrap();
    let marketing = before.find("// Rented GPUs").unwrap();
    let (head, tail) = before.split_at(marketing);
    fs::write(&inference, format!("{head}{}\n{tail}", block(&page, "cedar", "sales-models"))).unwrap();
    assert_eq!(policy(dir.path(), &["check", "--strict"]), (0, "15 policies: no problems\n".into()));
    assert_eq!(policy(dir.path(), &["fmt", "--check"]).0, 0);
    let (code, text) = policy(dir.path(), &["test"]);
    assert!(code == 0 && text.contains("47 of 47"), "{text}");
    let (_, text) = policy(dir.path(), &["explain", "--case", "sales, in the US"]);
    assert!(text.starts_with(block(&page, "text", "denied: no policy").trim_end()), "{text}");
    embedded::write_to(&dir.path().join("old")).unwrap();
    let (code, text) = policy(dir.path(), &["plan", "old", "policies"]);
    assert!(code == 1 && text.contains(block(&page, "text", "sales-models: added")), "{text}");
}

#[test]
fn the_cookbook_holds() {
    let mut names: Vec<String> = fs::read_dir("policies/examples/cookbook")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".cedar").map(str::to_owned))
        .collect();
    names.sort();
    let page = fs::read_to_string("docs/policies.md").unwrap();
    assert_eq!(names.len(), 10);
    for name in names {
        let dir = shipped();
        let policies = dir.path().join("policies");
        let from = Path::new("policies/examples/cookbook");
        fs::copy(from.join(format!("{name}.cedar")), policies.join(format!("50-{name}.cedar"))).unwrap();
        fs::copy(from.join(format!("{name}.toml")), policies.join(format!("tests/cookbook-{name}.toml")))
            .unwrap();
        let (code, text) = policy(dir.path(), &["check", "--strict"]);
        assert_eq!(code, 0, "{name}: {text}");
        assert_eq!(policy(dir.path(), &["fmt", "--check"]).0, 0, "{name}");
        let (code, text) = policy(dir.path(), &["test", "--filter", "cookbook-"]);
        assert_eq!(code, 0, "{name}: {text}");
        assert!(page.contains(&format!("cookbook/{name}.cedar")), "docs/policies.md does not name {name}");
    }
}

#[test]
fn invariants_are_checked_like_policies() {
    let dir = shipped();
    let invariants = dir.path().join("policies/invariants");
    fs::write(
        invariants.join("wrong.bad.cedar"),
        "@id(\"a\") forbid (principal, action, resource);\n\
         @id(\"a\") @invariant(\"never\") permit (principal, action, resource);\n\
         permit (principal, action, resource) when { context.data.levle > 0 };\n\
         @id(\"b\") @reason(\"never\") permit (principal in Tidegate::Team::\"clinicel\", action, resource);\n",
    )
    .unwrap();
    fs::write(invariants.join("broken.bad.cedar"), "permit (").unwrap();
    fs::write(invariants.join("unchecked.cedar"), "permit (principal, action, resource);").unwrap();
    let (code, text) = policy(dir.path(), &["check"]);
    assert_eq!(code, 1);
    insta::assert_snapshot!("invariants", text);
    // They are no part of the bundle: it loads, and says the same as without them.
    assert_eq!(policy(dir.path(), &["test"]).0, 0);
    let hash = |dir: &Path| tidegate::policy::Bundle::load(&dir.join("policies")).unwrap().hash().to_owned();
    assert_eq!(hash(dir.path()), embedded::bundle().unwrap().hash());
}

#[test]
#[cfg(not(feature = "prove"))]
fn without_the_feature_it_says_how_to_get_proofs() {
    let dir = shipped();
    let (code, text) = policy(dir.path(), &["prove"]);
    assert!(code == 3 && text.contains("cargo build --release --features prove"), "{text}");
    let (code, text) = policy(dir.path(), &["prove", "--help"]);
    assert!(code == 0 && text.contains("CVC5") && text.contains("--timeout"), "{text}");
    assert_eq!(policy(dir.path(), &["prove", "--timeout", "soon"]).0, 2);
}
