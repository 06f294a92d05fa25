//! Known answers for the sealed form: ours in `tests/vectors/seal`, and those of the AWS Encryption SDK where they are at hand.
//!
//! `UPDATE_VECTORS=1` writes ours anew. `TIDEGATE_VECTORS` is a folder with `valid-Net-4.0.0.zip` and
//! `commitment-test-vectors.json`; without it their tests have nothing to do and say so.
#![expect(clippy::cast_possible_truncation, reason = "messages of tests are small")]
#![expect(clippy::print_stdout, reason = "a test that skips says so")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA512, Salt};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate::protect::seal::events::{EventFrames, without_padding};
use tidegate::protect::seal::range::Layout;
use tidegate::protect::seal::{
    Bounds, DataKey, EncryptionContext, FrameLength, MessageId, NewMessage, OpenError, Opener, Sealer,
    UnverifiedHeader, aes_edk,
};

const KEK: [u8; 32] = *b"vectors are public, so this key ";
const NAMESPACE: &str = "tidegate";
const KEY: &str = "t/acme/vectors/rest/v1";

/// One message and what must come of it.
#[derive(Serialize, Deserialize)]
struct Case {
    name: String,
    /// Base64, as all bytes here.
    kek: String,
    namespace: String,
    key: String,
    stored: BTreeMap<String, String>,
    required: BTreeMap<String, String>,
    message_id: String,
    data_key: String,
    message: String,
    /// The plaintext of each frame; with `error`, of those before it.
    frames: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    events: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Part>,
}

/// A part of the plaintext, and the bytes of the message that hold it.
#[derive(Serialize, Deserialize)]
struct Part {
    plaintext: Range<u64>,
    sealed: Range<u64>,
    first_frame: u32,
    skip: u64,
    text: String,
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn bytes(text: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(text.trim()).unwrap()
}

fn context(pairs: &BTreeMap<String, String>) -> EncryptionContext {
    let mut context = EncryptionContext::new();
    for (key, value) in pairs {
        context.insert(key.clone(), value).unwrap();
    }
    context
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A message with the parts it is made of.
struct Made {
    case: Case,
    parts: Vec<Vec<u8>>,
}

fn make(name: &str, frame: u32, chunks: &[&[u8]]) -> Made {
    let stored = pairs(&[("tenant", "acme"), ("content-type", "text/plain; charset=utf-8"), ("größe", "ß")]);
    let required = pairs(&[("path", "/lake/a")]);
    let data_key = DataKey::random().unwrap();
    let id = MessageId::random().unwrap();
    let full = context(&stored).union(&context(&required)).unwrap();
    let mut sealer = Sealer::new(NewMessage {
        message_id: id,
        edks: vec![aes_edk::wrap(&KEK, NAMESPACE, KEY, &data_key, &full).unwrap()],
        data_key: data_key.clone(),
        context: context(&stored),
        required: context(&required),
        frame_length: FrameLength::new(frame).unwrap(),
    })
    .unwrap();
    let mut parts = vec![sealer.header().to_vec()];
    for chunk in chunks {
        let mut input = Bytes::copy_from_slice(chunk);
        while !input.is_empty() {
            parts.extend(sealer.push(&mut input).unwrap().map(|frame| frame.to_vec()));
        }
    }
    parts.push(sealer.finish().unwrap().to_vec());
    let plaintext = chunks.concat();
    let mut frames: Vec<String> = plaintext.chunks(frame as usize).map(base64).collect();
    if plaintext.len().is_multiple_of(frame as usize) {
        frames.push(String::new());
    }
    let case = Case {
        name: name.to_owned(),
        kek: base64(KEK),
        namespace: NAMESPACE.to_owned(),
        key: KEY.to_owned(),
        stored,
        required,
        message_id: id.to_string(),
        data_key: base64(data_key.expose()),
        message: base64(parts.concat()),
        frames,
        error: None,
        events: Vec::new(),
        ranges: Vec::new(),
    };
    Made { case, parts }
}

impl Made {
    /// The same case with another message, of which `released` frames open before the error.
    fn refused(self, message: &[u8], released: usize, error: &str) -> Case {
        let mut case = self.case;
        case.message = base64(message);
        case.frames.truncate(released);
        case.error = Some(error.to_owned());
        case
    }
}

/// The final frame of a writer that knows the length: it holds a full frame of text. Written without our codec.
fn full_final_frame(made: &Made, number: u32, text: &[u8]) -> Vec<u8> {
    let id = &made.parts[0][3..35];
    let prk = Salt::new(HKDF_SHA512, id).extract(&bytes(&made.case.data_key));
    let mut key = [0; 32];
    struct Length;
    impl aws_lc_rs::hkdf::KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    prk.expand(&[&[0x04, 0x78], b"DERIVEKEY"], Length).unwrap().fill(&mut key).unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let nonce = [&[0; 8], number.to_be_bytes().as_slice()].concat();
    let length = text.len() as u64;
    let aad =
        [id, b"AWSKMSEncryptionClient Final Frame", &number.to_be_bytes(), &length.to_be_bytes()].concat();
    let mut text = text.to_vec();
    key.seal_in_place_append_tag(
        Nonce::try_assume_unique_for_key(&nonce).unwrap(),
        Aad::from(aad),
        &mut text,
    )
    .unwrap();
    let length = (length as u32).to_be_bytes();
    [&[0xff; 4], number.to_be_bytes().as_slice(), &nonce, &length, &text].concat()
}

fn valid() -> Vec<Case> {
    let text: Vec<u8> = (0..=255).cycle().take(700).collect();
    let mut cases: Vec<Case> = [0, 1, 127, 128, 129, 256, 700]
        .map(|size| make(&format!("{size} bytes in frames of 128"), 128, &[&text[..size]]).case)
        .into();
    cases.push(make("frames of one byte", 1, &[b"abc"]).case);
    let mut made = make("the final frame is full", 64, &[&text[..128]]);
    made.parts.truncate(2);
    made.parts.push(full_final_frame(&made, 2, &text[64..128]));
    made.case.frames.pop();
    made.case.message = base64(made.parts.concat());
    cases.push(made.case);
    cases
}

fn ranges() -> Vec<Case> {
    let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
    [1000, 960, 64]
        .map(|size| {
            let mut made = make(&format!("parts of {size} bytes in frames of 64"), 64, &[&text[..size]]);
            let total = made.parts.concat().len() as u64;
            let header = made.parts[0].len() as u64;
            let layout = Layout::new(header, FrameLength::new(64).unwrap(), total).unwrap();
            for part in [0..1, 63..64, 0..size, size / 3..size / 2 + 1, size - 1..size] {
                let span = layout.frames(&(part.start as u64..part.end as u64)).unwrap();
                made.case.ranges.push(Part {
                    plaintext: part.start as u64..part.end as u64,
                    sealed: span.bytes,
                    first_frame: span.first,
                    skip: span.skip,
                    text: base64(&text[part]),
                });
            }
            made.case
        })
        .into()
}

fn events() -> Vec<Case> {
    let all = ["data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n", "data: [DONE]\n\n", "data: "];
    let long = format!("data: {}\r\n\r\n", "x".repeat(200));
    // One byte is missing to the border: a whole frame more.
    let tight = format!("data: {}\n\n", "y".repeat(64 - 9));
    [vec![all[0], all[1]], vec![all[0], &long, &tight, all[1]]]
        .map(|events| {
            let mut frames = EventFrames::default();
            let padded: Vec<Bytes> = events
                .iter()
                .map(|event| {
                    frames.push(event.as_bytes());
                    frames.next_event().unwrap()
                })
                .collect();
            let length = frames.frame_length().unwrap().get();
            let padded: Vec<&[u8]> = padded.iter().map(AsRef::as_ref).collect();
            let mut made = make(&format!("{} events", events.len()), length, &padded);
            made.case.events = events.iter().map(|event| (*event).to_owned()).collect();
            made.case
        })
        .into()
}

/// Other parts for a message.
type Pick<'a> = &'a dyn Fn(&[Vec<u8>]) -> Vec<Vec<u8>>;

fn refused() -> Vec<Case> {
    let text = [7; 80];
    let made = |name: &str| make(name, 16, &[&text]);
    let with = |name: &str, pick: Pick<'_>, released: usize, error: &str| {
        let made = made(name);
        let message = pick(&made.parts).concat();
        made.refused(&message, released, error)
    };
    let other = made("another message").parts;
    let mut cases = vec![
        with("truncated at a frame border", &|parts| parts[..4].to_vec(), 3, "seal_truncated"),
        with("truncated before the empty final frame", &|parts| parts[..6].to_vec(), 5, "seal_truncated"),
        with(
            "truncated within a frame",
            &|parts| [&parts[..3], &[parts[3][..9].to_vec()]].concat(),
            2,
            "seal_truncated",
        ),
        with(
            "two frames swapped",
            &|parts| [0, 2, 1, 3, 4, 5, 6].map(|at: usize| parts[at].clone()).to_vec(),
            0,
            "seal_frame",
        ),
        with(
            "a frame left out",
            &|parts| [0, 1, 3, 4, 5, 6].map(|at: usize| parts[at].clone()).to_vec(),
            1,
            "seal_frame",
        ),
        with(
            "a frame of another message",
            &|parts| {
                [0, 1, 2, 3, 4, 5, 6]
                    .map(|at: usize| if at == 3 { &other } else { parts }[at].clone())
                    .to_vec()
            },
            2,
            "seal_frame",
        ),
        with("the frames of another message", &|parts| [&parts[..1], &other[1..]].concat(), 0, "seal_frame"),
        with("a byte behind the end", &|parts| [parts, &[vec![0]]].concat(), 6, "seal_trailing"),
        with("nothing behind the header", &|parts| parts[..1].to_vec(), 0, "seal_truncated"),
    ];
    let flipped = |name: &str, at: &dyn Fn(&Made) -> usize, with: &[u8], error: &str| {
        let made = made(name);
        let at = at(&made);
        let mut message = made.parts.concat();
        for (byte, with) in message[at..].iter_mut().zip(with) {
            *byte ^= with;
        }
        made.refused(&message, 0, error)
    };
    let end = |made: &Made| made.parts[0].len();
    let edks = |made: &Made| 37 + context(&made.case.stored).serialise().len();
    cases.extend([
        flipped("commitment changed", &|made| end(made) - 48, &[1], "seal_commitment"),
        flipped("commitment changed in its last byte", &|made| end(made) - 17, &[0x80], "seal_commitment"),
        flipped("header tag changed", &|made| end(made) - 16, &[1], "seal_header_tag"),
        flipped("message id changed", &|_| 3, &[1], "seal_commitment"),
        flipped("frame length changed", &|made| end(made) - 50, &[0, 1], "seal_header_tag"),
        flipped("frame of nothing", &|made| end(made) - 49, &[16], "seal_malformed"),
        flipped("frames over the bound", &|made| end(made) - 52, &[0xff], "seal_malformed"),
        flipped("unframed", &|made| end(made) - 53, &[3], "seal_malformed"),
        flipped("version 1", &|_| 0, &[3], "seal_malformed"),
        flipped("signed suite", &|_| 1, &[1], "seal_malformed"),
        flipped("65,000 bytes of context", &|_| 35, &[0xff], "seal_malformed"),
        flipped("no encrypted data key", &|made| edks(made) + 1, &[1], "seal_malformed"),
        flipped("65,281 encrypted data keys", &edks, &[0xff], "seal_malformed"),
        flipped("a frame's first byte of text", &|made| end(made) + 16, &[1], "seal_frame"),
        flipped("a frame's nonce", &|made| end(made) + 4, &[1], "seal_frame"),
    ]);
    cases
}

fn open_header(
    message: &[u8],
    data_key: &DataKey,
    required: &EncryptionContext,
) -> Result<(Opener, usize), OpenError> {
    let parsed = UnverifiedHeader::parse(message, &Bounds::default())?;
    let (header, length) = parsed.ok_or(OpenError::Truncated { after: 0 })?;
    Ok((header.verify(data_key, required)?, length))
}

/// Opens a message with its data key; what each frame released, and how it ended.
fn open(
    message: &[u8],
    data_key: &DataKey,
    required: &EncryptionContext,
) -> (Vec<Vec<u8>>, Result<(), OpenError>) {
    let mut frames = Vec::new();
    let (mut opener, length) = match open_header(message, data_key, required) {
        Ok(opened) => opened,
        Err(error) => return (frames, Err(error)),
    };
    let mut input = BytesMut::from(&message[length..]);
    loop {
        match opener.next_frame(&mut input) {
            Ok(Some(frame)) => frames.push(frame.to_vec()),
            Ok(None) => break,
            Err(error) => return (frames, Err(error)),
        }
    }
    (frames, opener.finish(&input))
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/seal").join(name)
}

/// The cases of a file, written anew first if that is wanted.
fn cases(name: &str, make: fn() -> Vec<Case>) -> Vec<Case> {
    let path = file(name);
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = serde_json::to_string_pretty(&make()).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn check(case: &Case) -> (Vec<u8>, DataKey, EncryptionContext) {
    let (message, required) = (bytes(&case.message), context(&case.required));
    let data_key = DataKey::try_from(bytes(&case.data_key).as_slice()).unwrap();
    let (frames, result) = open(&message, &data_key, &required);
    let expected: Vec<Vec<u8>> = case.frames.iter().map(|frame| bytes(frame)).collect();
    assert_eq!(frames, expected, "{}", case.name);
    assert_eq!(result.err().map(|error| error.code()), case.error.as_deref(), "{}", case.name);
    if case.error.is_none() {
        let (header, _) = UnverifiedHeader::parse(&message, &Bounds::default()).unwrap().unwrap();
        let header = header.unverified();
        assert_eq!(header.message_id().to_string(), case.message_id);
        assert!(*header.context() == context(&case.stored));
        let full = header.context().union(&required).unwrap();
        let kek = bytes(&case.kek).try_into().unwrap();
        let unwrapped = aes_edk::unwrap(&kek, &case.namespace, &case.key, &header.edks()[0], &full);
        assert_eq!(unwrapped.unwrap().expose(), data_key.expose(), "{}", case.name);
    }
    (message, data_key, required)
}

#[test]
fn our_messages_open() {
    let cases = cases("valid.json", valid);
    cases.iter().for_each(|case| drop(check(case)));
    assert_eq!(cases.len(), 9);
}

#[test]
fn our_refused_messages_are_refused_after_the_frames_that_are_good() {
    let cases = cases("refused.json", refused);
    cases.iter().for_each(|case| drop(check(case)));
    assert!(cases.len() >= 24 && cases.iter().all(|case| case.error.is_some()));
}

#[test]
fn parts_open_from_their_frames_alone() {
    for case in cases("ranges.json", ranges) {
        let (message, data_key, required) = check(&case);
        let (mut opener, header) = open_header(&message, &data_key, &required).unwrap();
        let length = opener.header().frame_length();
        let layout = Layout::new(header as u64, length, message.len() as u64).unwrap();
        let cut = |range: &Range<u64>| &message[range.start as usize..range.end as usize];
        opener.open_final(&layout, cut(&layout.final_frame().1)).unwrap();
        for part in &case.ranges {
            let span = layout.frames(&part.plaintext).unwrap();
            assert_eq!((&span.bytes, span.first, span.skip), (&part.sealed, part.first_frame, part.skip));
            opener.seek(span.first);
            let (mut input, mut text) = (BytesMut::from(cut(&span.bytes)), Vec::new());
            while let Some(frame) = opener.next_frame(&mut input).unwrap() {
                text.extend_from_slice(&frame);
            }
            let text = &text[span.skip as usize..(span.skip + span.take) as usize];
            assert_eq!(text, bytes(&part.text), "{}", case.name);
        }
    }
}

#[test]
fn each_event_ends_at_a_frame_border() {
    for case in cases("events.json", events) {
        let (message, data_key, required) = check(&case);
        let (frames, _) = open(&message, &data_key, &required);
        let kept: Vec<u8> =
            frames.iter().flat_map(|frame| frame[..without_padding(frame)].to_vec()).collect();
        let kept = String::from_utf8(kept).unwrap();
        for event in &case.events {
            assert!(kept.contains(event.as_str()), "{}: {kept:?}", case.name);
        }
        // Comments and blank lines apart, nothing else came in.
        let lines = |text: &str| -> Vec<String> {
            text.lines()
                .filter(|line| !line.is_empty() && !line.starts_with(':'))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(lines(&kept), lines(&case.events.concat()), "{}", case.name);
    }
}

/// A file of the AWS Encryption SDK, if they are at hand.
fn foreign(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TIDEGATE_VECTORS").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: TIDEGATE_VECTORS names no folder with {name}");
    }
    Some(folder?.join(name))
}

#[test]
fn commitment_cases_of_the_aws_encryption_sdk() {
    let Some(path) = foreign("commitment-test-vectors.json") else { return };
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut opened, mut uncommitted, mut unread) = (0, 0, 0);
    for case in all["tests"].as_array().unwrap() {
        let text = |key: &str| bytes(case[key].as_str().unwrap());
        let (message, data_key) = (text("ciphertext"), text("decrypted-dek"));
        let header = text("header");
        // Content type and suite: what we do not read must be refused, whatever its status.
        let ours = message[1..3] == [0x04, 0x78] && header[header.len() - 53] == 2;
        let data_key = DataKey::try_from(data_key.as_slice()).unwrap();
        let (frames, result) = open(&message, &data_key, &EncryptionContext::new());
        let why = case["comment"].as_str().unwrap();
        match (ours, case["status"].as_bool().unwrap()) {
            (false, _) => {
                assert_eq!((frames.len(), result.unwrap_err().code()), (0, "seal_malformed"), "{why}");
                unread += 1;
            }
            (true, false) => {
                assert_eq!((frames.len(), result.unwrap_err().code()), (0, "seal_commitment"), "{why}");
                uncommitted += 1;
            }
            (true, true) => {
                assert_eq!(result, Ok(()), "{why}");
                let expected = case["plaintext-frames"].as_array().unwrap();
                let expected: Vec<&str> = expected.iter().map(|frame| frame.as_str().unwrap()).collect();
                assert_eq!(String::from_utf8(frames.concat()).unwrap(), expected.concat(), "{why}");
                opened += 1;
            }
        }
    }
    println!(
        "{opened} opened, {uncommitted} refused for their commitment, {unread} of suites we do not read"
    );
    assert_eq!((opened, uncommitted, unread), (17, 3, 26));
}

#[test]
fn a_message_of_the_aws_encryption_sdk_for_net() {
    let Some(path) = foreign("valid-Net-4.0.0.zip") else { return };
    let folder = tempfile::tempdir().unwrap();
    let unzipped =
        std::process::Command::new("unzip").arg("-q").arg(path).arg("-d").arg(folder.path()).status();
    assert!(unzipped.unwrap().success());
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let json = |name: &str| -> Value { serde_json::from_slice(&read(name)).unwrap() };
    let kek = bytes(json("keys.json")["keys"]["aes-256"]["material"].as_str().unwrap()).try_into().unwrap();
    let mut opened = 0;
    for case in json("manifest.json")["tests"].as_object().unwrap().values() {
        let path = |value: &Value| value.as_str().unwrap().trim_start_matches("file://").to_owned();
        let message = read(&path(&case["ciphertext"]));
        let parsed = UnverifiedHeader::parse(&message, &Bounds::default());
        if message[1..3] != [0x04, 0x78] {
            assert_eq!(parsed.unwrap_err().code(), "seal_malformed");
            continue;
        }
        let header = parsed.unwrap().unwrap().0;
        let given: BTreeMap<String, String> =
            serde_json::from_value(case["encryption-context"].clone()).unwrap();
        let stored = header.unverified().context();
        let required = given.iter().filter(|(key, _)| stored.get(key).is_none());
        let required = context(&required.map(|(key, value)| (key.clone(), value.clone())).collect());
        assert!(!required.is_empty());
        let master = &case["master-keys"][0];
        let (namespace, name) = (master["provider-id"].as_str().unwrap(), master["key"].as_str().unwrap());
        let full = context(&given);
        let mut found = header.unverified().edks().iter();
        let data_key = found.find_map(|edk| aes_edk::unwrap(&kek, namespace, name, edk, &full)).unwrap();
        let (frames, result) = open(&message, &data_key, &required);
        assert_eq!(result, Ok(()));
        assert_eq!(frames.concat(), read(&path(&case["result"]["output"]["plaintext"])));
        assert_eq!(
            open(&message, &data_key, &EncryptionContext::new()).1,
            Err(OpenError::HeaderTag),
            "without what is required"
        );
        opened += 1;
    }
    assert_eq!(opened, 1);
}
