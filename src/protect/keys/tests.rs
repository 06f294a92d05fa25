//! The life of branch keys: made, leased, refused at their limit, retired, destroyed; never shown.

use std::path::Path;
use std::sync::Mutex;

use jiff::SignedDuration;

use super::*;
use crate::model::{Problems, hex};

#[derive(Debug)]
struct Fixed(Mutex<Timestamp>);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

fn clock() -> Arc<Fixed> {
    Arc::new(Fixed(Mutex::new("2026-11-24T00:00:00Z".parse().unwrap())))
}

fn settings(dir: &Path, cache: &str) -> (KeysSettings, BTreeMap<RecipientName, RecipientSettings>) {
    use std::os::unix::fs::PermissionsExt as _;
    let root = dir.join("root.key");
    if !root.exists() {
        std::fs::write(&root, "bWFya2VyIG9mIGEgcm9vdCBrZXkgLSAzMiBieXRlcyE=").unwrap();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let keys =
        format!("directory = {:?}\ncache = \"{cache}\"\nroots.main.file = {root:?}", dir.join("branch"));
    let recipients = "haven = { root = \"main\" }\nlake = { root = \"main\", also = [\"haven\"] }";
    (toml::from_str(&keys).unwrap(), toml::from_str(recipients).unwrap())
}

fn keys(dir: &Path, limits: Limits) -> (Keys, Arc<Fixed>) {
    let (settings, recipients) = settings(dir, "5m");
    let clock = clock();
    let keys = Keys::with_limits(&settings, &recipients, "t.toml", Arc::clone(&clock) as _, limits);
    (keys.unwrap(), clock)
}

fn scope(recipient: &str, direction: Direction) -> Scope {
    Scope { tenant: "acme".parse().unwrap(), recipient: recipient.parse().unwrap(), direction }
}

fn facts() -> EncryptionContext {
    let mut context = EncryptionContext::new();
    context.insert("tenant", "acme").unwrap();
    context
}

fn wraps(keys: &Keys, name: &KeyName) -> u64 {
    keys.store().read(name).unwrap().unwrap().wraps
}

#[tokio::test]
async fn only_the_key_of_the_asked_scope_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, _) = keys(dir.path(), Limits::default());
    let request = scope("haven", Direction::Request);
    assert!(matches!(keys.wrap(&request, &facts()).await, Err(KeyError::Missing(_))));
    keys.make(&request).await.unwrap();
    keys.make(&scope("haven", Direction::Answer)).await.unwrap();
    // The refusal is remembered for a second, and told apart by scope.
    let other = keys.wrap(&scope("haven", Direction::Answer), &facts()).await.unwrap();
    let fresh = keys_again(dir.path());
    let wrapped = fresh.wrap(&request, &facts()).await.unwrap();
    let (data_key, name) = fresh.unwrap(&wrapped.edks, &facts(), &request).await.unwrap();
    assert_eq!(data_key.expose(), wrapped.data_key.expose());
    assert_eq!(name.to_string(), "t/acme/haven/request/v1");
    assert_ne!(other.data_key.expose(), wrapped.data_key.expose());
    for (edks, context, asked) in [
        (&wrapped.edks, facts(), scope("haven", Direction::Answer)),
        (&other.edks, facts(), request.clone()),
        (&wrapped.edks, EncryptionContext::new(), request.clone()),
    ] {
        assert!(matches!(fresh.unwrap(edks, &context, &asked).await, Err(KeyError::Foreign(_))));
    }
}

fn keys_again(dir: &Path) -> Keys {
    keys(dir, Limits::default()).0
}

#[tokio::test]
async fn a_second_recipient_opens_too_and_all_must_have_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, _) = keys(dir.path(), Limits::default());
    let (lake, haven) = (scope("lake", Direction::Rest), scope("haven", Direction::Rest));
    keys.make(&lake).await.unwrap();
    assert!(matches!(keys.wrap(&lake, &facts()).await, Err(KeyError::Missing(missing)) if missing == haven));
    keys.make(&haven).await.unwrap();
    let keys = keys_again(dir.path());
    let wrapped = keys.wrap(&lake, &facts()).await.unwrap();
    assert_eq!(wrapped.keys, ["t/acme/lake/rest/v1", "t/acme/haven/rest/v1"]);
    for asked in [lake, haven] {
        let (data_key, name) = keys.unwrap(&wrapped.edks, &facts(), &asked).await.unwrap();
        assert_eq!((data_key.expose(), name.scope), (wrapped.data_key.expose(), asked));
    }
}

#[tokio::test]
async fn a_lease_is_in_the_file_before_it_is_used_and_outlives_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, recipients) = settings(dir.path(), "1ms");
    let limits = Limits { lease: 8, due: 16, most: 20 };
    let keys = Keys::with_limits(&settings, &recipients, "t.toml", clock(), limits).unwrap();
    let scope = scope("haven", Direction::Request);
    let name = keys.make(&scope).await.unwrap();
    for done in 1..=20 {
        // The cache is over each time, so the key is opened again: that must not cost a lease.
        until_forgotten(&keys, &scope).await;
        keys.wrap(&scope, &facts()).await.unwrap();
        assert_eq!(wraps(&keys, &name), [8, 16, 20][(done - 1) / 8], "after {done}");
    }
    assert!(keys.is_due(&keys.store().read(&name).unwrap().unwrap(), clock().now()));
    let refused = keys.wrap(&scope, &facts()).await.unwrap_err();
    assert_eq!((refused.code(), refused.status().as_u16()), ("key_exhausted", 503));
    // A second process has nothing left either.
    let second = Keys::with_limits(&settings, &recipients, "t.toml", clock(), limits).unwrap();
    assert!(matches!(second.wrap(&scope, &facts()).await, Err(KeyError::Exhausted(_))));
    assert_eq!(keys.make(&scope).await.unwrap().version, 2);
    assert_eq!(
        second_after_rotation(&settings, &recipients, limits, &scope).await,
        ["t/acme/haven/request/v2"]
    );
}

async fn second_after_rotation(
    settings: &KeysSettings,
    recipients: &BTreeMap<RecipientName, RecipientSettings>,
    limits: Limits,
    scope: &Scope,
) -> Vec<String> {
    let keys = Keys::with_limits(settings, recipients, "t.toml", clock(), limits).unwrap();
    keys.wrap(scope, &facts()).await.unwrap().keys
}

#[tokio::test]
async fn processes_that_share_a_directory_share_the_count() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { lease: 4, due: 100, most: 200 };
    let scope = scope("haven", Direction::Request);
    let (first, _) = keys(dir.path(), limits);
    let name = first.make(&scope).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..5 {
        let (own, scope) = (keys(dir.path(), limits).0, scope.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..10 {
                own.wrap(&scope, &facts()).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(wraps(&first, &name), 5 * 12);
}

#[tokio::test]
async fn a_key_is_due_by_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, clock) = keys(dir.path(), Limits::default());
    let name = keys.make(&scope("haven", Direction::Rest)).await.unwrap();
    let file = keys.store().read(&name).unwrap().unwrap();
    assert!(!keys.is_due(&file, clock.now()));
    *clock.0.lock().unwrap() += SignedDuration::from_hours(30 * 24);
    assert!(keys.is_due(&file, clock.now()));
}

#[tokio::test]
async fn old_versions_open_until_they_are_retired_and_a_destroyed_name_stays_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, _) = keys(dir.path(), Limits::default());
    let scope = scope("haven", Direction::Rest);
    let first = keys.make(&scope).await.unwrap();
    let wrapped = keys.wrap(&scope, &facts()).await.unwrap();
    let second = keys.make(&scope).await.unwrap();
    let keys = keys_again(dir.path());
    assert_eq!(keys.wrap(&scope, &facts()).await.unwrap().keys, [second.to_string()]);
    keys.unwrap(&wrapped.edks, &facts(), &scope).await.unwrap();

    let store = keys.store();
    let before = store.read(&first).unwrap().unwrap();
    let lock = store.lock().unwrap();
    store.write(&lock, &first, &KeyFile { state: KeyState::Retired, ..before.clone() }).unwrap();
    assert!(matches!(
        keys_again(dir.path()).unwrap(&wrapped.edks, &facts(), &scope).await,
        Err(KeyError::Foreign(_))
    ));
    store.destroy(&lock, &first).unwrap();
    store.destroy(&lock, &second).unwrap();
    drop(lock);
    for entry in std::fs::read_dir(store.directory()).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains(&before.wrapped), "a wrapped key is still there");
    }
    assert_eq!(keys.make(&scope).await.unwrap().version, 3);
}

#[tokio::test]
async fn a_wrapped_key_is_bound_to_its_name_and_rewrapping_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, _) = keys(dir.path(), Limits::default());
    let (one, other) = (scope("haven", Direction::Request), scope("haven", Direction::Answer));
    let name = keys.make(&one).await.unwrap();
    let wrapped = keys.wrap(&one, &facts()).await.unwrap();
    let text = keys.store().read(&name).unwrap().unwrap().wrapped;
    keys.rewrap(&name).await.unwrap();
    let again = keys.store().read(&name).unwrap().unwrap();
    assert_ne!(again.wrapped, text);
    assert_eq!(again.wraps, 1 << 20, "what was counted stays counted");
    let fresh = keys_again(dir.path());
    fresh.unwrap(&wrapped.edks, &facts(), &one).await.unwrap();
    // The wrapped key of one direction in the file of another.
    let swapped = KeyName { scope: other.clone(), version: 1 };
    let lock = fresh.store().lock().unwrap();
    fresh.store().write(&lock, &swapped, &KeyFile { name: swapped.to_string(), ..again }).unwrap();
    drop(lock);
    let refused = fresh.wrap(&other, &facts()).await.unwrap_err();
    assert!(matches!(&refused, KeyError::Unavailable { .. }), "{refused}");
}

#[tokio::test]
async fn a_key_that_nobody_uses_leaves_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, recipients) = settings(dir.path(), "20ms");
    let keys = Keys::new(&settings, &recipients, "t.toml", clock()).unwrap();
    let scope = scope("haven", Direction::Request);
    keys.make(&scope).await.unwrap();
    keys.wrap(&scope, &facts()).await.unwrap();
    let held = Arc::downgrade(&keys.0.branches.held(&scope).unwrap());
    until_forgotten(&keys, &scope).await;
    assert!(held.upgrade().is_none(), "somebody holds the key");
}

async fn until_forgotten(keys: &Keys, scope: &Scope) {
    let gone = async {
        while keys.0.branches.held(scope).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("the key is dropped");
}

#[tokio::test]
async fn nothing_prints_key_material() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, _) = keys(dir.path(), Limits { lease: 1, due: 1, most: 1 });
    let scope = scope("haven", Direction::Request);
    let name = keys.make(&scope).await.unwrap();
    let wrapped = keys.wrap(&scope, &facts()).await.unwrap();
    let branch = keys.export(&name).await.unwrap();
    let exhausted = keys.wrap(&scope, &facts()).await.unwrap_err();
    std::fs::write(dir.path().join("root.key"), "AAECAwQFBgcICRAREhMUFRYXGBkgISIjJCUmJygpMDE=").unwrap();
    let refused = keys_again(dir.path()).unwrap(&wrapped.edks, &facts(), &scope).await.unwrap_err();
    let shown = format!(
        "{keys:?} {:?} {wrapped:?} {exhausted:?} {exhausted} {refused:?} {refused} {:?} {:?}",
        wrapped.data_key,
        keys.0.branches.held(&scope),
        keys.store(),
    );
    let root = *b"marker of a root key - 32 bytes!";
    for secret in [root, *branch, *wrapped.data_key.expose()] {
        for text in [base64(&secret), hex(&secret), format!("{:?}", &secret[..4]).replace(['[', ']'], "")] {
            assert!(!shown.contains(&text), "{shown}");
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

#[test]
fn all_problems_are_told_at_once() {
    let settings: KeysSettings = toml::from_str(
        r#"
        directory = "keys"
        namespace = "aws-kms"
        cache = "6m"
        rotate_after = "500d"
        [roots.none]
        [roots.two]
        file = "a"
        transit = { address = "http://127.0.0.1:1", key = "k", token_file = "t", timeout = "1h" }
        [roots.far]
        transit = { address = "http://192.0.2.1:1", key = "k", token_file = "t" }
        "#,
    )
    .unwrap();
    let recipients = toml::from_str(
        "a = {}\nb = { root = \"nope\", also = [\"b\", \"nobody\"] }\nc = { root = \"two\", public_key = \"c.pem\" }",
    )
    .unwrap();
    let problems: Problems = Keys::new(&settings, &recipients, "t.toml", clock()).unwrap_err();
    for place in [
        "keys.namespace",
        "keys.cache",
        "keys.rotate_after",
        "keys.roots.none",
        "keys.roots.two",
        "keys.roots.two.transit.timeout",
        "keys.roots.far.transit",
        "recipients.a",
        "recipients.b.root",
        "recipients.b.also",
        "recipients.c",
    ] {
        assert!(problems.iter().any(|problem| problem.place == place), "{place} is not in\n{problems}");
    }
}
