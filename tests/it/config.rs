//! What a person is told about broken files: every problem at once, each with its file, its place and the mend.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::Value;
use tidegate::app;
use tidegate::config;
use tidegate::net::{Authority, Subject};
use tidegate::policy::embedded;

const SOUND: &str = r#"
[gateway]
name = "border-1"

[listen]
address = "127.0.0.1:0"
drain = "30s"

[listen.tls]
certificate = "certs/server.pem"
key = "certs/server.key"
client_auth = "optional"
client_ca = "certs/ca.pem"

[admin]
address = "127.0.0.1:0"

[identity]
api_keys = "keys/api.toml"

[[identity.issuers]]
issuer = "https://login.example"
audiences = ["tidegate"]
algorithms = ["ES256"]
jwks_url = "https://login.example/keys"
jwks_ca = "certs/ca.pem"
tenant = "acme"

[[identity.mtls.trust_domains]]
name = "example.test"
tenant = "acme"

[policy]
directory = "policies"

[audit]
directory = "journal"

[clusters.eu]
endpoints = ["https://eu.example:8443"]
ca = "certs/ca.pem"
models = ["tide-small", "tide-large"]
credential_file = "keys/eu.key"

[clusters.us]
endpoints = ["http://127.0.0.1:9001"]
models = ["tide-small"]

[stores.lake]
endpoints = ["http://127.0.0.1:9002"]
access_key_id = "tidegate"
secret_key_file = "keys/lake.key"

[[stores.lake.datasets]]
id = "handbook"
bucket = "docs"
prefix = "handbook/"
level = "public"
residency = ["world"]

[services.status]
endpoints = ["http://127.0.0.1:9003"]

[limits.chat]
rate = 10

[[routes]]
name = "chat"
path = "/v1/chat/completions"
infer = { clusters = ["eu", "us"] }
level = "internal"
residency = ["EU", "US"]

[[routes]]
name = "lake"
path = "/lake/*"
store = "lake"

[[routes]]
name = "status"
path = "/status"
service = "status"
identity = "none"
level = "public"
residency = ["world"]
"#;

/// A directory with a configuration and everything that it names.
struct Setup {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Setup {
    fn sound() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("Test CA", Timestamp::now()).unwrap();
        let setup = Self { dir, authority };
        for name in ["certs", "keys"] {
            fs::create_dir(setup.at(name)).unwrap();
        }
        let certs = setup.at("certs");
        setup.authority.issued().write(&certs, "ca").unwrap();
        setup.authority.issue(Subject::Server(&["localhost"])).unwrap().write(&certs, "server").unwrap();
        embedded::write_to(&setup.at("policies")).unwrap();
        for name in ["keys/eu.key", "keys/lake.key"] {
            setup.write(name, "secret\n");
            setup.mode(name, 0o600);
        }
        let hash = "a".repeat(64);
        setup.write(
            "keys/api.toml",
            &format!("[[keys]]\nid = \"ci\"\nsha256 = \"{hash}\"\ntenant = \"acme\"\nkind = \"workload\"\n"),
        );
        setup.write("tidegate.toml", SOUND);
        setup
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Replaces what must be there, once.
    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.at(name)).unwrap();
        assert!(text.contains(from), "`{from}` is not in {name}");
        self.write(name, &text.replacen(from, to, 1));
    }

    fn config(&self, from: &str, to: &str) {
        self.edit("tidegate.toml", from, to);
    }

    /// What `tidegate check` says, with paths relative to the directory.
    fn report(&self) -> String {
        let problems = app::check_file(&self.at("tidegate.toml")).err().unwrap_or_default().into_vec();
        let mut text = String::new();
        for problem in problems {
            let _ = writeln!(text, "{}: {}", problem.file, problem.place);
            let _ = writeln!(text, "  {}", problem.message.replace('\n', "\n  "));
            if !problem.hint.is_empty() {
                let _ = writeln!(text, "  -> {}", problem.hint);
            }
        }
        text.replace(&format!("{}/", self.dir.path().display()), "").replace(": \n", "\n")
    }
}

/// A name and what it does to a sound directory.
type Case = (&'static str, fn(&Setup));

const BROKEN: &[Case] = &[
    ("no file", |s| fs::remove_file(s.at("tidegate.toml")).unwrap()),
    ("the file is no TOML", |s| s.config("[listen]\n", "[listen\n")),
    ("a key that does not exist", |s| s.config("drain =", "drian =")),
    ("a section that does not exist", |s| s.config("[gateway]", "[gatway]")),
    ("a missing section", |s| s.config("[policy]\ndirectory = \"policies\"\n", "")),
    ("a missing key", |s| s.config("access_key_id = \"tidegate\"\n", "")),
    ("missing keys in lists and tables", |s| {
        s.config("access_key_id = \"tidegate\"\nsecret_key_file = \"keys/lake.key\"\n", "");
        s.config("bucket = \"docs\"\nprefix = \"handbook/\"\n", "");
        s.config("audiences = [\"tidegate\"]\nalgorithms = [\"ES256\"]\n", "");
        s.config("key = \"certs/server.key\"\n", "");
    }),
    ("a wrong unit", |s| s.config("drain = \"30s\"", "drain = \"30sec\"")),
    ("a number where a duration belongs", |s| s.config("drain = \"30s\"", "drain = 30")),
    ("no room for one body, and no time", |s| {
        s.config("[admin]\n", "[gate]\nheld_bodies = \"3MiB\"\nbody_time = \"1ms\"\n\n[admin]\n");
    }),
    ("a name with a space", |s| s.config("\"border-1\"", "\"border 1\"")),
    ("a route to an unknown cluster", |s| s.config("[\"eu\", \"us\"]", "[\"eu\", \"asia\"]")),
    ("a route to an unknown store", |s| s.config("store = \"lake\"", "store = \"pond\"")),
    ("a model without an entity", |s| s.config("\"tide-large\"", "\"tide-huge\"")),
    ("a dataset without an entity", |s| s.config("\"handbook\"", "\"manual\"")),
    ("an unknown jurisdiction", |s| s.config("[\"EU\", \"US\"]", "[\"EU\", \"ATLANTIS\"]")),
    ("a residency that is nowhere", |s| s.config("[\"EU\", \"US\"]", "[]")),
    ("a key that others can read", |s| {
        s.mode("certs/server.key", 0o644);
        s.mode("keys/eu.key", 0o640);
    }),
    ("a missing certificate", |s| fs::remove_file(s.at("certs/server.pem")).unwrap()),
    ("an expired certificate", |s| {
        let old = Authority::new("Old CA", "2020-01-02T00:00:00Z".parse().unwrap()).unwrap();
        let certs = s.at("certs");
        for name in ["certs/server.pem", "certs/server.key"] {
            fs::remove_file(s.at(name)).unwrap();
        }
        old.issue(Subject::Server(&["localhost"])).unwrap().write(&certs, "server").unwrap();
    }),
    ("a key of another certificate", |s| {
        fs::remove_file(s.at("certs/server.key")).unwrap();
        let other = s.authority.issue(Subject::Server(&["localhost"])).unwrap();
        other.write(&s.at("keys"), "other").unwrap();
        fs::rename(s.at("keys/other.key"), s.at("certs/server.key")).unwrap();
    }),
    ("client certificates without authorities", |s| s.config("client_ca = \"certs/ca.pem\"\n", "")),
    ("no certificate, no key and a private key for authority", |s| {
        fs::remove_file(s.at("certs/server.key")).unwrap();
        fs::remove_file(s.at("certs/server.pem")).unwrap();
        s.config("client_ca = \"certs/ca.pem\"", "client_ca = \"certs/ca.key\"");
    }),
    ("an address of the world without TLS", |s| {
        s.config("address = \"127.0.0.1:0\"", "address = \"0.0.0.0:8443\"");
        s.config(
            "[listen.tls]\ncertificate = \"certs/server.pem\"\nkey = \"certs/server.key\"\nclient_auth = \"optional\"\nclient_ca = \"certs/ca.pem\"\n",
            "",
        );
    }),
    ("the admin listener open to the world", |s| {
        s.config("[admin]\naddress = \"127.0.0.1:0\"", "[admin]\naddress = \"0.0.0.0:9443\"");
    }),
    ("two routes of one name and path", |s| {
        s.config(
            "[[routes]]\nname = \"lake\"",
            "[[routes]]\nname = \"chat\"\npath = \"/v1/chat/completions\"\ninfer = { clusters = [\"us\"] }\n\n[[routes]]\nname = \"lake\"",
        );
    }),
    ("a route of two kinds", |s| s.config("store = \"lake\"\n", "store = \"lake\"\nservice = \"status\"\n")),
    ("a route of no kind, and a broken one", |s| {
        s.config("service = \"status\"\n", "");
        s.config("path = \"/lake/*\"", "path = \"lake\"");
        s.config("[\"eu\", \"us\"]", "[]");
    }),
    ("datasets without sense", |s| {
        s.config("bucket = \"docs\"", "bucket = \"Docs\"");
        s.config("prefix = \"handbook/\"", "prefix = \"/handbook\"");
    }),
    ("two datasets at one place", |s| {
        s.config(
            "[services.status]",
            "[[stores.lake.datasets]]\nid = \"trials\"\nbucket = \"docs\"\nprefix = \"handbook/\"\n\n[services.status]",
        );
    }),
    ("limits of no route", |s| s.config("[limits.chat]", "[limits.chatter]")),
    ("limits without sense", |s| s.config("rate = 10", "burst = 10\nper = \"0s\"")),
    ("an endpoint with a path", |s| s.config("https://eu.example:8443", "https://eu.example:8443/v1")),
    ("plain HTTP to another machine", |s| s.config("https://eu.example:8443", "http://eu.example:8443")),
    ("an endpoint without authorities", |s| s.config("ca = \"certs/ca.pem\"\nmodels", "models")),
    ("an issuer that signs with a shared secret", |s| s.config("[\"ES256\"]", "[\"HS256\"]")),
    ("an issuer with two key sets", |s| s.config("jwks_url", "jwks_file = \"keys/set.json\"\njwks_url")),
    ("an issuer with a broken key set", |s| {
        s.config(
            "jwks_url = \"https://login.example/keys\"\njwks_ca = \"certs/ca.pem\"",
            "jwks_file = \"keys/set.json\"",
        );
        s.write("keys/set.json", "{\"keys\": 1}");
    }),
    ("authorities of an issuer missing, of another broken", |s| {
        s.config("jwks_ca = \"certs/ca.pem\"\n", "");
        s.config(
            "[[identity.mtls.trust_domains]]",
            "[[identity.issuers]]\nissuer = \"b\"\naudiences = [\"b\"]\nalgorithms = [\"ES256\"]\njwks_url = \"https://b.example/\"\njwks_ca = \"certs/server.key\"\n\n[[identity.mtls.trust_domains]]",
        );
    }),
    ("an issuer over plain HTTP", |s| s.config("https://login.example/keys", "http://login.example/keys")),
    ("a trust domain with its scheme", |s| s.config("\"example.test\"", "\"spiffe://example.test\"")),
    ("API keys with a wrong hash and a double", |s| {
        s.edit("keys/api.toml", &"a".repeat(64), "abc");
        let good = fs::read_to_string(s.at("keys/api.toml")).unwrap().replace("abc", &"b".repeat(64));
        s.write(
            "keys/api.toml",
            &format!("{}{good}{good}", fs::read_to_string(s.at("keys/api.toml")).unwrap()),
        );
    }),
    ("API keys that do not parse", |s| s.edit("keys/api.toml", "kind = \"workload\"", "kind = \"robot\"")),
    ("API keys that are no TOML", |s| s.edit("keys/api.toml", "[[keys]]", "[[keys]")),
    ("sealing for nobody, and opening without keys", |s| {
        s.config("models = [\"tide-small\"]", "models = [\"tide-small\"]\ncan_open = \"haven\"");
        s.config("path = \"/lake/*\"", "path = \"/lake/*\"\nopens = true");
        s.config("service = \"status\"\n", "service = \"status\"\nopens = true\n");
    }),
    ("objects that lie otherwise than their route says", |s| {
        s.config("path = \"/lake/*\"", "path = \"/lake/*\"\nobjects = \"open\"");
        s.config("service = \"status\"\n", "service = \"status\"\nobjects = \"pass\"\n");
    }),
    ("a sealed dataset behind a route that does not know, and its key for nobody", |s| {
        s.config(
            "prefix = \"handbook/\"",
            "prefix = \"handbook/\"\nsealed = { tenant = \"acme\", recipient = \"lake\" }",
        );
    }),
    ("a segment out of bounds, and a short queue", |s| {
        s.config("directory = \"journal\"", "directory = \"journal\"\nsegment_size = \"512KiB\"\nqueue = 3");
    }),
    ("no policies", |s| fs::remove_dir_all(s.at("policies")).unwrap()),
    ("a policy with a syntax error", |s| {
        s.write("policies/90-mine.cedar", "@id(\"mine\")\npermit (principal, action, resource\n")
    }),
    ("a policy with a type error", |s| {
        s.write(
            "policies/90-mine.cedar",
            "@id(\"mine\")\npermit (principal, action == Tidegate::Action::\"infer\", resource)\nwhen { context.levle < 2 };\n",
        );
    }),
    ("a policy without an id", |s| {
        s.write("policies/90-mine.cedar", "permit (principal, action, resource) when { false };\n")
    }),
    ("a broken schema", |s| s.edit("policies/tidegate.cedarschema", "entity Cluster", "entty Cluster")),
    ("broken entities", |s| s.edit("policies/entities.json", "\"uid\"", "uid")),
    ("entities of an unknown type and with a wrong attribute", |s| {
        s.edit("policies/entities.json", "Tidegate::Provider", "Tidegate::Vendor");
        s.edit("policies/entities.json", "{\"peer\": false}", "{\"peer\": \"no\"}");
    }),
    ("telemetry without sense", |s| {
        s.write("tidegate.toml", &format!("{SOUND}\n[telemetry]\notlp_endpoint = \"collector\"\nsample_percent = 101\nlog_filter = \"tidegate=loud=very\"\notlp_ca = \"certs/none.pem\"\nmetrics_interval = \"0s\"\n"));
    }),
    ("several mistakes in one section", |s| {
        s.config("drain = \"30s\"", "drain = \"30sec\"\ndrian = 1");
        s.config("client_auth = \"optional\"", "client_auth = \"perhaps\"");
        s.config("issuer = \"https://login.example\"\n", "");
        s.config("tenant = \"acme\"\n\n[policy]", "tenant = \"\"\n\n[policy]");
    }),
    ("several mistakes in several sections", |s| {
        s.config("name = \"border-1\"", "name = \"border-1\"\nthreads = 4");
        s.config("[\"ES256\"]", "[\"HS256\"]");
        s.config("models = [\"tide-small\"]", "models = [\"tide-small\"]\nspeed = 9");
        s.config("path = \"/v1/chat/completions\"", "path = 7");
        s.config("store = \"lake\"", "store = \"pond\"");
        s.config("rate = 10", "rate = 0");
        s.mode("certs/server.key", 0o644);
        s.edit("policies/entities.json", "\"parents\"", "\"parent\"");
        s.write("policies/90-mine.cedar", "permit (principal, action, resource);\n");
        s.edit("keys/api.toml", "kind = \"workload\"", "kind = \"robot\"");
        s.config("directory = \"journal\"", "directory = \"journal\"\nsegment_size = \"1GiB\"");
    }),
];

#[test]
fn a_sound_directory_has_no_problems() {
    let setup = Setup::sound();
    assert_eq!(setup.report(), "");
    app::check(&config::load(&setup.at("tidegate.toml")).unwrap()).unwrap();
}

#[test]
fn broken_files_are_explained() {
    let mut text = String::new();
    let (mut silent, mut helpless) = (Vec::new(), Vec::new());
    for (name, spoil) in BROKEN {
        let setup = Setup::sound();
        spoil(&setup);
        let report = setup.report();
        if report.is_empty() {
            silent.push(*name);
        }
        let problems = app::check_file(&setup.at("tidegate.toml")).err().unwrap_or_default();
        if problems.iter().any(|problem| problem.hint.is_empty()) {
            helpless.push(*name);
        }
        let _ = write!(text, "## {name}\n{report}\n");
    }
    insta::assert_snapshot!("broken_files", text);
    assert!(silent.is_empty(), "nothing was found: {}", silent.join(", "));
    assert!(helpless.is_empty(), "nothing is said about the mend: {}", helpless.join(", "));
}

/// Every table of the schema, also those within others.
fn tables<'a>(value: &'a Value, at: &str, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(members) => {
            if members.contains_key("properties") {
                found.push((at.to_owned(), value));
            }
            for (key, member) in members {
                tables(member, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                tables(element, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn no_table_takes_unknown_keys() {
    let schema: Value = serde_json::from_str(&config::reference::json_schema()).unwrap();
    let mut found = Vec::new();
    tables(&schema, "", &mut found);
    assert!(found.len() > 15, "only {} tables", found.len());
    let open: Vec<&str> = found
        .iter()
        .filter(|(_, table)| table.get("additionalProperties") != Some(&Value::Bool(false)))
        .map(|(at, _)| at.as_str())
        .collect();
    assert!(open.is_empty(), "these take unknown keys: {}", open.join(", "));
}

/// The TOML blocks of the documents. One that has `[listen]` is a whole configuration; others stand beside what is
/// needed to parse them.
#[test]
fn documented_configurations_parse() {
    let mut pages: Vec<PathBuf> = ["docs", "policies", "certs", "deploy"]
        .iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.push("README.md".into());
    let dir = tempfile::tempdir().unwrap();
    let mut blocks = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            if block.contains("[cases]") {
                // Tests of policies.
                continue;
            }
            let file = dir.path().join("tidegate.toml");
            let mut whole = block.to_owned();
            for (section, text) in [
                ("[listen]", "[listen]\naddress = '127.0.0.1:0'\n"),
                ("[policy]", "[policy]\ndirectory = 'policies'\n"),
                ("[audit]", "[audit]\n"),
            ] {
                if !block.lines().any(|line| line.trim() == section) {
                    whole.push_str(&format!("\n{text}"));
                }
            }
            fs::write(&file, whole).unwrap();
            blocks += 1;
            config::load(&file).unwrap_or_else(|problems| panic!("{}: {problems}\n{block}", page.display()));
        }
    }
    assert!(blocks > 0);
}

#[test]
fn shipped_policies_load() {
    embedded::bundle().unwrap();
    tidegate::policy::Bundle::load(std::path::Path::new("policies")).unwrap();
}
