//! A private object store that is none: a test double that speaks a little S3 over plain HTTP on loopback.
//!
//! Objects are files under `DIR/store/<bucket>/<key>`. Path-style GET (with Range), HEAD, PUT, DELETE and ListObjectsV2; every request
//! must be signed by the gateway's key. An ETag is the first half of the SHA-256 of the object, not its MD5. Seeds invented data.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use super::double::{self, Answer, Pieces};
use super::signature::{SigningKey, sha256};

/// The most keys of one listing.
const MAX_KEYS: usize = 1_000;

/// The deepest key that a listing finds, in path segments.
const MAX_DEPTH: usize = 16;

/// A pretended store.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    key: SigningKey,
}

/// What a path-style target names.
#[derive(Debug)]
struct Object {
    bucket: String,
    key: String,
}

impl Store {
    /// A store over a directory.
    pub(crate) const fn new(root: PathBuf, key: SigningKey) -> Self {
        Self { root, key }
    }

    fn dispatch(&self, request: &Request<Bytes>) -> Response<Pieces> {
        if let Err(error) = self.key.verify(request, Timestamp::now()) {
            return refuse(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", &error.to_string());
        }
        let Some(object) = object_of(request.uri().path()) else {
            return refuse(StatusCode::BAD_REQUEST, "InvalidURI", "the path names no bucket and key");
        };
        let bucket = self.root.join(&object.bucket);
        if !bucket.is_dir() {
            return refuse(StatusCode::NOT_FOUND, "NoSuchBucket", "there is no such bucket");
        }
        let file = bucket.join(&object.key);
        let answered = match (request.method(), object.key.is_empty()) {
            (&Method::GET, true) => list(&object.bucket, &bucket, &query_of(request)),
            (&Method::GET | &Method::HEAD, false) => get(request, &file),
            (&Method::PUT, false) => put(&file, request.body()),
            (&Method::DELETE, false) => delete(&file),
            _ => {
                Ok(refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "this store does not do that"))
            }
        };
        answered.unwrap_or_else(|error| {
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &error.to_string())
        })
    }
}

impl Answer for Store {
    fn answer(&self, request: &Request<Bytes>) -> Response<Pieces> {
        self.dispatch(request)
    }
}

/// `/bucket/key/with/slashes`, decoded; a segment that could leave the directory names nothing.
fn object_of(path: &str) -> Option<Object> {
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    let (bucket, key) = decoded.strip_prefix('/')?.split_once('/').unwrap_or((decoded.get(1..)?, ""));
    let harmless = |segment: &str| {
        !matches!(segment, "" | "." | "..") && !segment.contains(['\\', '\0']) && !segment.starts_with('/')
    };
    let ok = harmless(bucket) && (key.is_empty() || key.split('/').all(harmless));
    ok.then(|| Object { bucket: bucket.to_owned(), key: key.to_owned() })
}

fn query_of(request: &Request<Bytes>) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn etag(bytes: &[u8]) -> String {
    let digest: String = sha256(bytes).chars().take(32).collect();
    format!("\"{digest}\"")
}

fn get(request: &Request<Bytes>, file: &Path) -> io::Result<Response<Pieces>> {
    let bytes = match fs::read(file) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if is_missing(&error) => {
            return Ok(refuse(StatusCode::NOT_FOUND, "NoSuchKey", "there is no such object"));
        }
        Err(error) => return Err(error),
    };
    let total = bytes.len();
    let etag = etag(&bytes);
    let range = request.headers().get(header::RANGE).and_then(|value| range_of(value.to_str().ok()?, total));
    let mut response = match range {
        None => double::text(StatusCode::OK, "application/octet-stream", bytes),
        Some(None) => {
            let mut response =
                refuse(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", "the range lies outside");
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{total}"));
            return Ok(response);
        }
        Some(Some((first, last))) => {
            let part = bytes.slice(first..=last);
            let mut response = double::text(StatusCode::PARTIAL_CONTENT, "application/octet-stream", part);
            set(&mut response, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{total}"));
            response
        }
    };
    set(&mut response, header::ETAG, &etag);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    let modified = Timestamp::try_from(fs::metadata(file)?.modified()?).map_err(io::Error::other)?;
    set(&mut response, header::LAST_MODIFIED, &modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    // The server drops the body of an answer to HEAD itself, and keeps the length.
    Ok(response)
}

/// A single byte range within `total`: none if it is to be ignored, `Some(None)` if it lies outside.
fn range_of(text: &str, total: usize) -> Option<Option<(usize, usize)>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = total.checked_sub(1);
    if first.is_empty() {
        let suffix: usize = last.parse().ok()?;
        return Some(end.filter(|_| suffix > 0).map(|end| (total.saturating_sub(suffix), end)));
    }
    let first: usize = first.parse().ok()?;
    let last: usize = if last.is_empty() { usize::MAX } else { last.parse().ok()? };
    if last < first {
        return None;
    }
    Some(end.filter(|end| first <= *end).map(|end| (first, last.min(end))))
}

/// Written beside and renamed, so that a reader never sees half an object.
fn put(file: &Path, body: &[u8]) -> io::Result<Response<Pieces>> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    let beside = file.with_added_extension("tmp~");
    fs::write(&beside, body)?;
    fs::rename(&beside, file)?;
    let mut response = double::text(StatusCode::OK, "application/xml", Bytes::new());
    set(&mut response, header::ETAG, &etag(body));
    Ok(response)
}

fn delete(file: &Path) -> io::Result<Response<Pieces>> {
    match fs::remove_file(file) {
        Err(error) if !is_missing(&error) => Err(error),
        _ => {
            let mut response = Response::new(Pieces::one(Bytes::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

fn list(name: &str, bucket: &Path, query: &[(String, String)]) -> io::Result<Response<Pieces>> {
    let ask = |key: &str| query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    if ask("list-type") != Some("2") {
        return Ok(refuse(StatusCode::NOT_IMPLEMENTED, "NotImplemented", "only ListObjectsV2 is done"));
    }
    let prefix = ask("prefix").unwrap_or_default();
    let delimiter = ask("delimiter").filter(|text| !text.is_empty());
    let after = ask("continuation-token").or_else(|| ask("start-after")).unwrap_or_default();
    let most = ask("max-keys").and_then(|text| text.parse().ok()).unwrap_or(MAX_KEYS).min(MAX_KEYS);
    let mut keys = Vec::new();
    walk(bucket, "", MAX_DEPTH, &mut keys)?;
    keys.retain(|key| key.starts_with(prefix));
    keys.sort();
    // A common prefix counts as one entry and is itself the place from which to go on.
    let mut entries: Vec<(String, bool)> = Vec::new();
    for key in keys {
        let rest = key.strip_prefix(prefix).unwrap_or_default();
        let entry = match delimiter.and_then(|delimiter| rest.split_once(delimiter).zip(Some(delimiter))) {
            Some(((head, _), delimiter)) => (format!("{prefix}{head}{delimiter}"), true),
            None => (key, false),
        };
        if entry.0.as_str() > after && entries.last() != Some(&entry) {
            entries.push(entry);
        }
    }
    let more = entries.len() > most;
    entries.truncate(most);
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    xml.push_str("<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (tag, value) in [
        ("Name", name),
        ("Prefix", prefix),
        ("Delimiter", delimiter.unwrap_or_default()),
        ("MaxKeys", &most.to_string()),
        ("KeyCount", &entries.len().to_string()),
        ("IsTruncated", if more { "true" } else { "false" }),
    ] {
        element(&mut xml, tag, value);
    }
    if let Some((last, _)) = entries.last().filter(|_| more) {
        element(&mut xml, "NextContinuationToken", last);
    }
    for (key, is_prefix) in &entries {
        if *is_prefix {
            xml.push_str("<CommonPrefixes>");
            element(&mut xml, "Prefix", key);
            xml.push_str("</CommonPrefixes>");
        } else {
            contents(&mut xml, bucket, key)?;
        }
    }
    xml.push_str("</ListBucketResult>");
    Ok(double::text(StatusCode::OK, "application/xml", xml))
}

fn contents(xml: &mut String, bucket: &Path, key: &str) -> io::Result<()> {
    let file = bucket.join(key);
    let bytes = fs::read(&file)?;
    let modified = Timestamp::try_from(fs::metadata(&file)?.modified()?).map_err(io::Error::other)?;
    xml.push_str("<Contents>");
    element(xml, "Key", key);
    element(xml, "LastModified", &modified.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string());
    element(xml, "ETag", &etag(&bytes));
    element(xml, "Size", &bytes.len().to_string());
    element(xml, "StorageClass", "STANDARD");
    xml.push_str("</Contents>");
    Ok(())
}

fn walk(dir: &Path, above: &str, depth: usize, keys: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let key = if above.is_empty() { name } else { format!("{above}/{name}") };
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                walk(&entry.path(), &key, depth - 1, keys)?;
            }
        } else if !key.ends_with(".tmp~") {
            keys.push(key);
        }
    }
    Ok(())
}

fn set(response: &mut Response<Pieces>, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn element(xml: &mut String, tag: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    xml.push_str(&format!("<{tag}>{text}</{tag}>"));
}

/// An error in S3's form.
fn refuse(status: StatusCode, code: &str, message: &str) -> Response<Pieces> {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>");
    element(&mut xml, "Code", code);
    element(&mut xml, "Message", message);
    xml.push_str("</Error>");
    double::text(status, "application/xml", xml)
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::demo::datasets;
    use crate::demo::double::Double;
    use crate::demo::double::tests::ask;
    use crate::demo::signature::tests::{key, signed};

    async fn start(dir: &Path) -> Double {
        datasets::seed(dir).unwrap();
        Double::start(0, Store::new(dir.to_owned(), key())).await.unwrap()
    }

    async fn send(double: &Double, request: http::request::Builder, body: &'static str) -> Response<Bytes> {
        let request = signed(&key(), request.body(Bytes::from(body)).unwrap(), Timestamp::now());
        ask(double.address(), request.map(Full::from)).await
    }

    fn text(response: &Response<Bytes>) -> &str {
        std::str::from_utf8(response.body()).unwrap()
    }

    #[tokio::test]
    async fn objects_are_written_read_in_part_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = start(dir.path()).await;
        let path = "/clinical/trials/new%20file.txt";
        let put = send(&store, Request::put(path), "0123456789").await;
        assert_eq!(put.status(), 200);
        let whole = send(&store, Request::get(path), "").await;
        assert_eq!((text(&whole), &whole.headers()["etag"]), ("0123456789", &put.headers()["etag"]));
        for (range, status, part) in [
            ("bytes=2-4", 206, "234"),
            ("bytes=8-", 206, "89"),
            ("bytes=-3", 206, "789"),
            ("bytes=4-2", 200, "0123456789"),
        ] {
            let answer = send(&store, Request::get(path).header("range", range), "").await;
            assert_eq!((answer.status().as_u16(), text(&answer)), (status, part), "{range}");
        }
        let outside = send(&store, Request::get(path).header("range", "bytes=10-"), "").await;
        assert_eq!(outside.status(), 416);
        let head = send(&store, Request::head(path), "").await;
        assert_eq!((&head.headers()["content-length"], head.body().len()), (&"10".parse().unwrap(), 0));
        assert_eq!(send(&store, Request::delete(path), "").await.status(), 204);
        assert_eq!(send(&store, Request::delete(path), "").await.status(), 204);
        assert_eq!(send(&store, Request::get(path), "").await.status(), 404);
    }

    #[tokio::test]
    async fn listings_go_page_by_page() {
        let dir = tempfile::tempdir().unwrap();
        let store = start(dir.path()).await;
        for name in ["a&b", "b", "sub/c", "sub/d"] {
            let request = Request::put(format!("/clinical/trials/x/{}", name.replace('&', "%26")));
            assert_eq!(send(&store, request, "1").await.status(), 200);
        }
        let list = "/clinical?list-type=2&prefix=trials%2Fx%2F";
        let all = send(&store, Request::get(list), "").await;
        assert!(text(&all).contains("<KeyCount>4</KeyCount>"), "{}", text(&all));
        assert!(text(&all).contains("<Key>trials/x/a&amp;b</Key>"));
        let first = send(&store, Request::get(format!("{list}&delimiter=%2F&max-keys=2")), "").await;
        assert!(text(&first).contains("<NextContinuationToken>trials/x/b<"), "{}", text(&first));
        let next = format!("{list}&delimiter=%2F&continuation-token=trials%2Fx%2Fb");
        let rest = send(&store, Request::get(next), "").await;
        assert!(text(&rest).contains("<CommonPrefixes><Prefix>trials/x/sub/</Prefix></CommonPrefixes>"));
        assert!(text(&rest).contains("<KeyCount>1</KeyCount>"));
    }

    #[tokio::test]
    async fn nothing_unsigned_and_nothing_outside_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let store = start(&dir.path().join("store")).await;
        fs::write(dir.path().join("secret"), "x").unwrap();
        let unsigned = Request::get("/commons/handbook/handbook.md").body(Full::default()).unwrap();
        assert_eq!(ask(store.address(), unsigned).await.status(), 403);
        for path in
            ["/commons/../../secret", "/../secret", "/commons/%2e%2e/%2e%2e/secret", "/commons//x", "/"]
        {
            let answer = send(&store, Request::get(path), "").await;
            assert_eq!(answer.status(), 400, "{path}");
        }
        assert_eq!(send(&store, Request::get("/nobucket/x"), "").await.status(), 404);
        assert_eq!(send(&store, Request::post("/commons/x"), "").await.status(), 405);
    }
}
