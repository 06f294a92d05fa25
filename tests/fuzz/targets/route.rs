//! A host, a method and a path to a table of overlapping routes, against the rule in words: the own host before any host, the exact path before
//! a prefix, the longest prefix before a shorter one; then the method.

use std::sync::OnceLock;

use http::Method;
use tidegate::route::{HostPattern, PathPattern, Route, RouteSettings, Table};

const ROUTES: &str = r#"
[[routes]]
name = "all"
path = "/*"
methods = ["GET", "POST"]
service = "s"
[[routes]]
name = "a"
path = "/a"
service = "s"
[[routes]]
name = "a-below"
path = "/a/*"
service = "s"
[[routes]]
name = "a-b-below"
path = "/a/b/*"
methods = ["PUT"]
service = "s"
[[routes]]
name = "own"
hosts = ["own.test"]
path = "/a/*"
service = "s"
[[routes]]
name = "own-exact"
hosts = ["own.test", "other.test"]
path = "/a/b/c"
methods = ["DELETE"]
service = "s"
"#;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        #[derive(serde::Deserialize)]
        struct File {
            routes: Vec<RouteSettings>,
        }
        let file: File = toml::from_str(ROUTES).unwrap();
        Table::from_settings("t.toml", &file.routes).unwrap()
    })
}

fn rank(route: &Route, host: &str, path: &str) -> Option<(bool, bool, usize)> {
    let own = route.hosts.iter().any(|pattern| matches!(pattern, HostPattern::Exact(name) if name == host));
    if !own && !route.hosts.contains(&HostPattern::Any) {
        return None;
    }
    match &route.path {
        PathPattern::Exact(exact) => (exact == path).then_some((own, true, exact.len())),
        PathPattern::Prefix(prefix) => {
            path.starts_with(prefix.as_str()).then_some((own, false, prefix.len()))
        }
    }
}

pub(crate) fn read(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.splitn(3, '\n');
    let (Some(host), Some(method), Some(path)) = (lines.next(), lines.next(), lines.next()) else { return };
    let Ok(method) = method.parse::<Method>() else { return };
    let found = table().find(host, &method, path).map(|route| route.name.clone());
    let best = table().routes().filter_map(|route| rank(route, host, path)).max();
    let expected = best.map(|best| {
        table()
            .routes()
            .find(|route| rank(route, host, path) == Some(best) && route.methods.contains(&method))
    });
    match (found, expected) {
        (Ok(found), Some(Some(expected))) => assert_eq!(found, expected.name),
        (Err(error), Some(None)) => assert_eq!(error.code(), "method_not_allowed"),
        (Err(error), None) => assert_eq!(error.code(), "route_not_found"),
        (found, expected) => panic!("{found:?}, not {expected:?}, for {host:?} {method} {path:?}"),
    }
}
