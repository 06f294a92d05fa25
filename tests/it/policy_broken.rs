//! Every shipped file, broken in twenty ways by a slip of the hand: refused each time, with a place and words that help.

use std::fmt::Write as _;

use tidegate::policy::{Bundle, embedded};

/// Slips in policies: what stands there first, and what is written instead.
const POLICY_SLIPS: &[(&str, &str)] = &[
    (";\n", "\n"),
    ("(\n", "\n"),
    ("@id(", "@idd("),
    ("@id(\"", "@id(\"two words"),
    ("  principal", "  pricipal"),
    ("  action", "  acton"),
    ("Tidegate::Action::", "Tidegat::Action::"),
    ("Tidegate::Action::\"", "Tidegate::Action::\"un"),
    ("\"", ""),
    ("context.", "contex."),
    ("context.data.level", "context.data.levle"),
    ("context.data", "context.date"),
    ("==", "="),
    ("&&", "&"),
    ("&&", "and"),
    ("{", ""),
    ("}", ""),
    ("permit (", "allow ("),
    ("forbid (", "deny ("),
    ("resource\n)", "resource == Tidegate::Model::\"eu/ghost\"\n)"),
    ("resource\n)", "resource == Tidegate::Ghost::\"x\"\n)"),
    ("resource\n)", "resource in ?resource\n)"),
    (";\n", " when { resource.level <= 1 };\n"),
    (";\n", " when { context.request.bytes + 1 > 10 };\n"),
    (";\n", " when { context.data.level <= \"1\" };\n"),
    (";\n", " when { context.purpose == \"care\" };\n"),
    (";\n", " when { false };\n"),
    ("@id(", "/* @id("),
    (",\n", "\n"),
    (")\n", "\n"),
];

/// Slips in the schema.
const SCHEMA_SLIPS: &[(&str, &str)] = &[
    ("namespace Tidegate", "namespace Tidegte"),
    ("entity User in [Team]", "entity User in [Teams]"),
    ("tenant: String,", "tenant: Strin,"),
    ("tenant: String,", ""),
    ("authn: String,", "authn: Long,"),
    ("peer: Bool,", "peer: Bool"),
    ("peer: Bool,", "pier: Bool,"),
    ("action send;", ""),
    ("action local;", ""),
    ("infer, embed in [send]", "infer, embed"),
    ("infer, embed in [send]", "infer in [send]"),
    ("read, list in [send]", "read, list in [local]"),
    ("resource: [Model],", "resource: [Dataset],"),
    ("context: Context,", ""),
    ("level: Long,", "level: String,"),
    ("level: Long,", ""),
    ("origin: String,", "origin?: Long,"),
    ("destination?: Cluster,", "destination: Cluster,"),
    ("sealed: Bool,", ""),
    ("maxTokens?: Long,", "maxTokens: Long,"),
    ("workload?: Workload,", "workload?: User,"),
    ("peerAddress: ipaddr,", "peerAddress: String,"),
    ("now: datetime,", "now: Long,"),
    ("type Context = {", "type Context = "),
];

/// Slips in the entities.
const ENTITY_SLIPS: &[(&str, &str)] = &[
    ("[\n", "\n"),
    ("},\n", "}\n"),
    ("\"uid\"", "\"uuid\""),
    ("\"uid\"", "uid"),
    ("\"type\": \"Tidegate::Jurisdiction\"", "\"type\": \"Jurisdiction\""),
    ("\"type\": \"Tidegate::Jurisdiction\"", "\"tpye\": \"Tidegate::Jurisdiction\""),
    ("\"type\": \"Tidegate::Jurisdiction\"", "\"type\": \"Tidegate::User\""),
    ("\"id\": \"EU\"", "\"id\": \"UE\""),
    (
        "\"id\": \"DE\"}, \"parents\": [",
        "\"id\": \"DE\"}, \"parents\": [{\"type\": \"Tidegate::Jurisdiction\", \"id\": \"DE\"}, ",
    ),
    ("\"parents\": []", "\"parents\": {}"),
    ("\"attrs\": {}", "\"attrs\": []"),
    ("\"attrs\": {}", "\"atrs\": {}"),
    ("{\"peer\": false}", "{}"),
    ("{\"peer\": false}", "{\"peer\": \"no\"}"),
    ("{\"peer\": false}", "{\"peer\": false, \"colour\": \"red\"}"),
    ("\"Tidegate::Cluster\", \"id\": \"private\"", "\"Tidegate::Cluster\", \"id\": \"inside\""),
    ("\"name\": \"tide-small\"", "\"nam\": \"tide-small\""),
    ("\"Tidegate::Model\", \"id\": \"eu/tide-small\"", "\"Tidegate::Model\", \"id\": \"ue/tide-small\""),
    ("\"Tidegate::Team\", \"id\": \"research\"", "\"Tidegate::Team\", \"id\": \"reserch\""),
    ("\"Tidegate::Team\", \"id\": \"research\"", "\"Tidegate::Team\", \"id\": \"clinical\""),
    ("\"owner\": {\"__entity\": ", "\"owner\": {\"entity\": "),
    (
        "\"owner\": {\"__entity\": {\"type\": \"Tidegate::Team\"",
        "\"owner\": {\"__entity\": {\"type\": \"Tidegate::Store\"",
    ),
    ("\"Tidegate::Dataset\", \"id\": \"handbook\"", "\"Tidegate::Dataset\", \"id\": \"hand\\book\""),
    ("\"Tidegate::Service\", \"id\": \"status\"", "\"Tidegate::Service\", \"id\": \"statsu\""),
];

#[test]
fn every_shipped_file_broken_in_twenty_ways() {
    for (name, good) in embedded::FILES.iter().filter(|(name, _)| *name != "README.md") {
        let slips = match *name {
            "entities.json" => ENTITY_SLIPS,
            "tidegate.cedarschema" => SCHEMA_SLIPS,
            _ => POLICY_SLIPS,
        };
        let (mut all, mut refused) = (String::new(), 0);
        for (from, to) in slips.iter().filter(|(from, _)| good.contains(from)) {
            let broken = good.replacen(from, to, 1);
            let files = embedded::FILES.iter().map(|(file, text)| {
                let text = if file == name { broken.as_str() } else { text };
                ((*file).to_owned(), text.as_bytes().to_vec())
            });
            let told = match Bundle::from_files("policies", files.collect()) {
                // Valid, if perhaps not what was meant: the tests beside the policies are for that.
                Ok(_) => continue,
                Err(problems) => problems.into_vec(),
            };
            refused += 1;
            writeln!(all, "# `{}` for `{}`", to.escape_debug(), from.escape_debug()).unwrap();
            for mut problem in told.into_iter().take(4) {
                assert!(!problem.message.is_empty() && !problem.file.is_empty(), "{problem:?}");
                // Of several names that are equally near, the library suggests any.
                if problem.hint.starts_with("did you mean") {
                    problem.hint = "did you mean …".to_owned();
                }
                writeln!(all, "{problem}").unwrap();
            }
        }
        assert!(refused >= 20, "{name}: only {refused} of {} were refused", slips.len());
        insta::assert_snapshot!(name.replace('.', "_"), all);
    }
}
