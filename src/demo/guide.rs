//! What to do after the tour: commands to copy, and the one line to change to see a decision change.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::files::{Addresses, Files};
use crate::audit::verify::Report;

/// The policy that the reader is asked to loosen.
const POLICY: &str = "marketing-models";

/// The line of it that matters, before and after.
const BEFORE: &str = "context.data.level <= 1";
const AFTER: &str = "context.data.level <= 2";

/// Prints how to go on.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn write(out: &mut dyn Write, files: &Files, addresses: &Addresses) -> io::Result<()> {
    let port = addresses.data.port();
    let quoted = |name: &str| quote(&files.at(name));
    writeln!(
        out,
        r#"
The gateway stays up: https://localhost:{port}, health and metrics on {admin}.

Ask a model with curl:

  curl --cacert {ca} \
    -H "authorization: Bearer $(cat {research})" -H 'content-type: application/json' \
    -d '{{"model": "tide-small", "messages": [{{"role": "user", "content": "When is high tide?"}}]}}' \
    https://localhost:{port}/v1/chat/completions

Ask with Python (pip install openai):

  import ssl, openai
  tls = ssl.create_default_context(cafile={ca_python})
  client = openai.OpenAI(
      base_url="https://localhost:{port}/v1",
      api_key=open({research_python}).read(),
      http_client=openai.DefaultHttpxClient(verify=tls),
  )
  question = [{{"role": "user", "content": "When is high tide?"}}]
  for chunk in client.chat.completions.create(model="tide-small", messages=question, stream=True):
      for choice in chunk.choices:
          print(choice.delta.content or "", end="", flush=True)
"#,
        admin = addresses.admin,
        ca = quoted("certs/ca.pem"),
        research = quoted("tokens/research.jwt"),
        ca_python = python(&files.at("certs/ca.pem")),
        research_python = python(&files.at("tokens/research.jwt")),
    )?;
    writeln!(
        out,
        r#"Read a dataset as the training job, by its certificate:

  curl --cacert {ca} --cert {cert} --key {key} \
    https://localhost:{port}/lake/clinical/trials/2031.csv

Read restricted data as the scan job, sealed, and open it with the job's key (docs/sealing.md opens it in five lines of Python):

  curl --cacert {ca} --cert {scanner_cert} --key {scanner_key} \
    https://localhost:{port}/lake/clinical/patients/register.csv |
    tidegate open --config {config} --tenant demo --recipient scanner --direction answer - -o -

See a decision change while the gateway runs. Marketing may not send confidential prompts:

  curl --cacert {ca} \
    -H "authorization: Bearer $(cat {marketing})" -H 'content-type: application/json' \
    -d '{{"model": "tide-small", "messages": [{{"role": "user", "content": "Hello"}}]}}' \
    https://localhost:{port}/confidential/v1/chat/completions
"#,
        ca = quoted("certs/ca.pem"),
        cert = quoted("certs/trainer.pem"),
        key = quoted("keys/trainer.key"),
        scanner_cert = quoted("certs/scanner.pem"),
        scanner_key = quoted("keys/scanner.key"),
        config = quoted("tidegate.toml"),
        marketing = quoted("tokens/marketing.jwt"),
    )?;
    match find_line(&files.at("policies")) {
        Some((file, line)) => writeln!(
            out,
            "In {}, line {line} (policy `{POLICY}`), write `{AFTER}` for `{BEFORE}`,\n\
             save, and ask again two seconds later.",
            file
        )?,
        None => writeln!(
            out,
            "Edit the policy `{POLICY}` in {}, save, and ask again two seconds later.",
            quoted("policies")
        )?,
    }
    writeln!(
        out,
        r#"
Test the policies, and see why a case is decided as it is:

  tidegate policy test {policies}
  tidegate policy explain --policies {policies} --case 'marketing, confidential'

See what crossed and why:

  tidegate audit query --journal {journal}

Ctrl-C ends it. {dir} stays and is used again by the next run: edited policies and the
journal are kept; certificates, keys and tokens are made anew."#,
        policies = quoted("policies"),
        journal = quoted("journal"),
        dir = quoted(""),
    )
}

/// Prints what the check of the journal found, and how to do it again.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn evidence(out: &mut dyn Write, files: &Files, report: &Report) -> io::Result<()> {
    let (journal, vkey) = (quote(&files.at("journal")), quote(&files.at("journal/tree/vkey")));
    match report.problems.first() {
        None if report.unsigned == 0 => {
            writeln!(out, "\n✓ journal: each of its {} records is the one that was signed", report.records)?
        }
        None => writeln!(out, "\n✗ journal: {} records are not signed yet", report.unsigned)?,
        Some(problem) => writeln!(out, "\n✗ journal: {}", problem.what)?,
    }
    writeln!(out, "  tidegate audit verify --journal {journal} --vkey {vkey}")
}

/// The file and line (from 1) in which the policy says what to change.
fn find_line(policies: &Path) -> Option<(String, usize)> {
    let mut files: Vec<_> = fs::read_dir(policies).ok()?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "cedar")).find_map(|file| {
        let text = fs::read_to_string(&file).ok()?;
        let mut lines =
            text.lines().enumerate().skip_while(|(_, line)| !line.contains(&format!("\"{POLICY}\"")));
        lines.next()?;
        let (index, _) =
            lines.take_while(|(_, line)| !line.starts_with("@id")).find(|(_, line)| line.contains(BEFORE))?;
        Some((file.display().to_string(), index + 1))
    })
}

/// A path as one word of a shell.
fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A path as a string of Python, whose escapes JSON shares.
fn python(path: &Path) -> String {
    serde_json::Value::from(path.display().to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_files_that_are_there_and_the_line_to_change() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::create(&dir.path().join("a demo's"), &crate::demo::files::DIRECTORIES).unwrap();
        let policy = "@id(\"other\")\npermit when { context.data.level <= 1 };\n\n\
                      @id(\"marketing-models\")\npermit (..)\nwhen { context.data.level <= 1 };\n";
        fs::write(files.at("policies/20-inference.cedar"), policy).unwrap();
        let any = "127.0.0.1:8443".parse().unwrap();
        let addresses =
            Addresses { data: any, admin: any, eu: any, us: any, lake: any, status: any, haven: any };
        let mut out = Vec::new();
        write(&mut out, &files, &addresses).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("20-inference.cedar, line 6 (policy `marketing-models`)"), "{text}");
        assert!(text.contains(r"a demo'\''s/certs/ca.pem' \"), "{text}");
        assert!(text.contains("https://localhost:8443/v1/chat/completions"));
    }
}
