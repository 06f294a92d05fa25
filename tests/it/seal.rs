//! The sealed form of a payload: what is written opens, and nothing else does.
#![expect(clippy::cast_possible_truncation, reason = "messages of tests are small")]

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tidegate::protect::seal::range::Layout;
use tidegate::protect::seal::{
    Bounds, DataKey, Edk, EncryptionContext, FrameLength, MessageId, NewMessage, OpenError, Opener, Sealer,
    UnverifiedHeader, aes_edk, rewrap,
};

const KEK: [u8; 32] = [7; 32];
const NAME: &str = "t/acme/gpu/request/v1";

pub(crate) fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
    let mut context = EncryptionContext::new();
    for (key, value) in pairs {
        context.insert((*key).to_owned(), *value).unwrap();
    }
    context
}

fn stored() -> EncryptionContext {
    context(&[("tenant", "acme"), ("path", "/v1/chat/completions"), ("ü", "ö")])
}

fn required() -> EncryptionContext {
    context(&[("method", "POST")])
}

fn message(frame: u32) -> NewMessage {
    let data_key = DataKey::random().unwrap();
    let full = stored().union(&required()).unwrap();
    NewMessage {
        message_id: MessageId::random().unwrap(),
        edks: vec![aes_edk::wrap(&KEK, "tidegate", NAME, &data_key, &full).unwrap()],
        data_key,
        context: stored(),
        required: required(),
        frame_length: FrameLength::new(frame).unwrap(),
    }
}

/// Seals in chunks; header first, then each frame.
fn seal_parts(frame: u32, plaintext: &[u8], chunk: usize) -> Vec<Bytes> {
    let mut sealer = Sealer::new(message(frame)).unwrap();
    let length = sealer.sealed_length(plaintext.len() as u64).unwrap();
    let mut parts = vec![sealer.header().clone()];
    for chunk in plaintext.chunks(chunk.max(1)) {
        let mut input = Bytes::copy_from_slice(chunk);
        while !input.is_empty() {
            parts.extend(sealer.push(&mut input).unwrap().map(BytesMut::freeze));
        }
    }
    parts.push(sealer.finish().unwrap().freeze());
    assert_eq!(parts.iter().map(|part| part.len() as u64).sum::<u64>(), length);
    parts
}

/// Opens a header as its recipient does.
fn open_header(bytes: &[u8]) -> Result<(Opener, usize), String> {
    let parsed = UnverifiedHeader::parse(bytes, &Bounds::default()).map_err(|error| error.to_string())?;
    let (header, length) = parsed.ok_or("header incomplete")?;
    let full = header.unverified().context().union(&required()).map_err(|error| error.to_string())?;
    let data_key = header.unverified().edks().iter();
    let data_key = data_key.filter_map(|edk| aes_edk::unwrap(&KEK, "tidegate", NAME, edk, &full)).next();
    let opener =
        header.verify(&data_key.ok_or("no key")?, &required()).map_err(|error| error.code().to_owned())?;
    Ok((opener, length))
}

/// Opens a message that comes in chunks; also what was released before it failed.
fn open(message: &[u8], chunk: usize) -> (Vec<u8>, Result<(), String>) {
    let mut released = Vec::new();
    let (mut opener, length) = match open_header(message) {
        Ok(opened) => opened,
        Err(error) => return (released, Err(error)),
    };
    let mut input = BytesMut::new();
    let mut work = || {
        for chunk in message[length..].chunks(chunk.max(1)) {
            input.extend_from_slice(chunk);
            while let Some(text) = opener.next_frame(&mut input)? {
                released.extend_from_slice(&text);
            }
        }
        opener.finish(&input)
    };
    let result = work().map_err(|error: OpenError| error.to_string());
    (released, result)
}

#[test]
fn sizes_around_the_frame_length_come_back() {
    for frame in [1, 16, 128, 4096] {
        for size in [0, 1, frame - 1, frame, frame + 1, 3 * frame, 10 * frame + 7] {
            let plaintext: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let sealed = seal_parts(frame, &plaintext, 97).concat();
            assert_eq!(open(&sealed, 61), (plaintext, Ok(())), "{frame} {size}");
        }
    }
}

#[test]
fn a_message_that_ends_in_a_full_final_frame_is_legal_too() {
    // A writer that knows the length may do this; ours never does.
    let parts = seal_parts(64, &[5; 64], 64);
    let (opener, _) = open_header(&parts[0]).unwrap();
    assert_eq!(opener.header().frame_length().get(), 64);
    assert_eq!(parts.len(), 3, "header, a regular frame, an empty final one");
}

#[test]
fn what_is_required_and_not_stored_must_be_known() {
    let sealed = seal_parts(128, b"text", 4).concat();
    let (header, _) = UnverifiedHeader::parse(&sealed, &Bounds::default()).unwrap().unwrap();
    let full = stored().union(&required()).unwrap();
    let data_key = aes_edk::unwrap(&KEK, "tidegate", NAME, &header.unverified().edks()[0], &full).unwrap();
    for wrong in [EncryptionContext::new(), context(&[("method", "PUT")])] {
        let (header, _) = UnverifiedHeader::parse(&sealed, &Bounds::default()).unwrap().unwrap();
        assert_eq!(header.verify(&data_key, &wrong).unwrap_err(), OpenError::HeaderTag);
        let other = stored().union(&wrong).unwrap();
        let edk = &UnverifiedHeader::parse(&sealed, &Bounds::default()).unwrap().unwrap().0;
        assert!(aes_edk::unwrap(&KEK, "tidegate", NAME, &edk.unverified().edks()[0], &other).is_none());
    }
    assert_eq!(header.verify(&DataKey::random().unwrap(), &required()).unwrap_err(), OpenError::Commitment);
}

#[test]
fn only_the_key_of_that_name_and_namespace_is_tried() {
    let key = DataKey::random().unwrap();
    let edk = aes_edk::wrap(&KEK, "tidegate", NAME, &key, &stored()).unwrap();
    assert_eq!(aes_edk::name_of(&edk), Some(NAME));
    let unwrap = |kek: &[u8; 32], namespace: &str, name: &str, edk: &Edk| {
        aes_edk::unwrap(kek, namespace, name, edk, &stored()).is_some()
    };
    assert!(unwrap(&KEK, "tidegate", NAME, &edk));
    assert!(!unwrap(&[8; 32], "tidegate", NAME, &edk));
    assert!(!unwrap(&KEK, "other", NAME, &edk));
    assert!(!unwrap(&KEK, "tidegate", "t/acme/gpu/request/v2", &edk));
    for part in [b"".as_slice(), &[0; 19], &[0; 47], &[0; 49]] {
        let part = Bytes::copy_from_slice(part);
        assert!(!unwrap(&KEK, "tidegate", NAME, &Edk { info: part.clone(), ..edk.clone() }));
        assert!(!unwrap(&KEK, "tidegate", NAME, &Edk { ciphertext: part, ..edk.clone() }));
    }
}

#[test]
fn frames_moved_swapped_left_out_or_of_another_message_do_not_open() {
    let (one, other) = (seal_parts(16, &[1; 80], 16), seal_parts(16, &[2; 80], 16));
    let frame = |index: usize| one[index].clone();
    let with = |frames: &[Bytes]| [&[one[0].clone()], frames].concat().concat();
    let all: Vec<Bytes> = one[1..].to_vec();
    assert_eq!(open(&with(&all), 7).1, Ok(()));
    let cases: [(&str, Vec<Bytes>, usize, &str); 7] = [
        ("left out", vec![frame(1), frame(3), frame(4), frame(5), frame(6)], 16, "frame 2"),
        ("swapped", vec![frame(2), frame(1), frame(3), frame(4), frame(5), frame(6)], 0, "frame 1"),
        ("twice", vec![frame(1), frame(1), frame(2)], 16, "frame 2"),
        ("of another message", vec![frame(1), other[2].clone(), frame(3)], 16, "frame 2"),
        ("final too early", vec![frame(1), frame(6)], 16, "frame 2"),
        ("cut at a border", vec![frame(1), frame(2)], 32, "truncated after frame 2"),
        ("more after the end", [all.as_slice(), &[frame(6)]].concat(), 80, "follow"),
    ];
    for (what, frames, released, error) in cases {
        let (text, result) = open(&with(&frames), 11);
        assert_eq!(text, vec![1; released], "{what}");
        assert!(result.as_ref().unwrap_err().contains(error), "{what}: {result:?}");
    }
    let foreign = [&[other[0].clone()], all.as_slice()].concat().concat();
    assert_eq!(open(&foreign, 9).0, b"");
}

#[test]
fn headers_that_attack_are_refused_before_anything_is_allocated() {
    let good = seal_parts(128, b"", 1)[0].to_vec();
    let context = stored().serialise();
    let edks = 37 + context.len();
    let edit = |at: Range<usize>, with: &[u8]| {
        let mut bytes = good.clone();
        bytes.splice(at, with.iter().copied());
        bytes
    };
    let length = good.len();
    let cases = [
        ("version", edit(0..1, &[1])),
        ("signed suite", edit(1..3, &[5, 0x78])),
        ("huge context", edit(35..37, &[0xff, 0xff])),
        ("context longer than it is", edit(35..37, &(context.len() as u16 + 1).to_be_bytes())),
        ("no pairs", edit(35..edks, &[0, 2, 0, 0])),
        ("more pairs than there are", edit(37..39, &[0, 9])),
        ("no key", edit(edks..edks + 2, &[0, 0])),
        ("five keys", edit(edks..edks + 2, &[0, 5])),
        ("65535 keys", edit(edks..edks + 2, &[0xff, 0xff])),
        ("unframed", edit(length - 53..length - 52, &[1])),
        ("frames of nothing", edit(length - 52..length - 48, &[0; 4])),
        ("frames over the bound", edit(length - 52..length - 48, &[0xff; 4])),
    ];
    for (what, bytes) in cases {
        let parsed = UnverifiedHeader::parse(&bytes, &Bounds::default());
        assert!(matches!(parsed, Err(error) if error.code() == "seal_malformed"), "{what}: {parsed:?}");
    }
    // Keys of 64 KiB each that never come: the bound on the header ends the wait.
    let mut endless = good[..edks].to_vec();
    endless.extend([0, 4]);
    endless.resize(70_000, 0xff);
    assert!(UnverifiedHeader::parse(&endless, &Bounds::default()).is_err());
}

#[test]
fn contexts_have_one_form() {
    for (bytes, why) in [
        (&b"\0\x02\0\x01b\0\0\0\x01a\0\0"[..], "unsorted"),
        (b"\0\x02\0\x01a\0\0\0\x01a\0\0", "double"),
        (b"\0\x01\0\0\0\0", "empty key"),
        (b"\0\x01\0\x01a\0\0\0", "more behind"),
        (b"\0\x01\0\x01\xff\0\0", "no UTF-8"),
        (b"\0\x01\0\x0baws-crypto-\0\0", "reserved"),
    ] {
        let mut header = seal_parts(128, b"", 1)[0][..35].to_vec();
        header.extend((bytes.len() as u16).to_be_bytes());
        header.extend(bytes);
        header.resize(4000, 0);
        assert!(UnverifiedHeader::parse(&header, &Bounds::default()).is_err(), "{why}");
    }
    let mut context = EncryptionContext::new();
    assert!(context.insert("aws-crypto-public-key", "x").is_err());
    assert!(context.insert("", "x").is_err());
    assert!(context.insert("a", "x".repeat(8192)).is_err());
    for index in 0..64 {
        context.insert(format!("k{index}"), "v").unwrap();
    }
    assert!(context.insert("one more", "v").is_err());
    assert!(!format!("{context:?}").contains("\"v\""));
}

#[test]
fn a_part_opens_from_the_frames_that_hold_it() {
    for size in [1usize, 99, 100, 101, 1000, 1050] {
        let plaintext: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let sealed = seal_parts(100, &plaintext, 64).concat();
        let (mut opener, header) = open_header(&sealed).unwrap();
        let layout = Layout::new(header as u64, opener.header().frame_length(), sealed.len() as u64).unwrap();
        assert_eq!(layout.plaintext(), size as u64);
        let cut = |range: &Range<u64>| &sealed[range.start as usize..range.end as usize];
        let (_, last) = layout.final_frame();
        opener.open_final(&layout, cut(&last)).unwrap();
        for part in [0..1, 0..size, size / 3..size / 2 + 1, size - 1..size] {
            let span = layout.frames(&(part.start as u64..part.end as u64)).unwrap();
            opener.seek(span.first);
            let mut input = BytesMut::from(cut(&span.bytes));
            let mut text = Vec::new();
            while let Some(frame) = opener.next_frame(&mut input).unwrap() {
                text.extend_from_slice(&frame);
            }
            assert!(input.is_empty());
            let start = span.skip as usize;
            assert_eq!(text[start..start + span.take as usize], plaintext[part.clone()], "{size} {part:?}");
        }
        assert!(layout.frames(&(0..size as u64 + 1)).is_none());
        assert!(layout.frames(&(1..1)).is_none());
    }
}

#[test]
fn a_truncated_object_has_no_final_frame_where_it_must_be() {
    let sealed = seal_parts(100, &[9; 1000], 100).concat();
    let (opener, header) = open_header(&sealed).unwrap();
    let frame = opener.header().frame_length();
    for cut in 1..sealed.len() - header {
        let total = sealed.len() - cut;
        let Ok(layout) = Layout::new(header as u64, frame, total as u64) else { continue };
        let (mut opener, _) = open_header(&sealed).unwrap();
        let (_, place) = layout.final_frame();
        assert!(
            opener.open_final(&layout, &sealed[place.start as usize..place.end as usize]).is_err(),
            "{cut}"
        );
    }
}

#[test]
fn other_recipients_get_a_new_header_and_the_old_frames() {
    let parts = seal_parts(64, &[3; 200], 50);
    let (header, _) = UnverifiedHeader::parse(&parts[0], &Bounds::default()).unwrap().unwrap();
    let full = stored().union(&required()).unwrap();
    let data_key = aes_edk::unwrap(&KEK, "tidegate", NAME, &header.unverified().edks()[0], &full).unwrap();
    let new_kek = [9; 32];
    let edk = aes_edk::wrap(&new_kek, "tidegate", "t/acme/gpu/request/v2", &data_key, &full).unwrap();
    let header = rewrap(header, &data_key, &required(), vec![edk]).unwrap();
    assert_eq!(
        open(&[std::slice::from_ref(&header), &parts[1..]].concat().concat(), 33).1,
        Err("no key".to_owned())
    );
    let (parsed, _) = UnverifiedHeader::parse(&header, &Bounds::default()).unwrap().unwrap();
    let edk = &parsed.unverified().edks()[0];
    let found = aes_edk::unwrap(&new_kek, "tidegate", "t/acme/gpu/request/v2", edk, &full).unwrap();
    let mut opener = parsed.verify(&found, &required()).unwrap();
    let mut input = BytesMut::from(parts[1..].concat().as_slice());
    let mut text = Vec::new();
    while let Some(frame) = opener.next_frame(&mut input).unwrap() {
        text.extend_from_slice(&frame);
    }
    assert_eq!((text, opener.finish(&input)), (vec![3; 200], Ok(())));
}

#[test]
fn frames_are_still_counted_when_the_message_is_over() {
    let parts = seal_parts(16, &[1; 40], 16);
    let (mut opener, _) = open_header(&parts[0]).unwrap();
    let mut input = BytesMut::from(parts[1..].concat().as_slice());
    let counts = std::iter::from_fn(|| opener.next_frame(&mut input).unwrap().map(|_| opener.frames()));
    assert_eq!(counts.collect::<Vec<_>>(), [1, 2, 2]);
    assert!(opener.is_over());
}

#[test]
fn keys_are_not_shown() {
    let key = DataKey::from([0xab; 32]);
    assert_eq!(format!("{key:?}"), "***");
    let debug = format!("{:?}", NewMessage { data_key: key, ..message(16) });
    assert!(!debug.contains("171, 171") && !debug.contains("ab, ab") && debug.contains("***"), "{debug}");
}

proptest! {
    #[test]
    fn any_chunking_comes_back(
        plaintext in prop::collection::vec(any::<u8>(), 0..2000),
        frame in 1u32..300,
        written in 1usize..500,
        read in 1usize..500,
    ) {
        let sealed = seal_parts(frame, &plaintext, written).concat();
        prop_assert_eq!(open(&sealed, read), (plaintext, Ok(())));
    }

    #[test]
    fn any_flipped_bit_is_refused_and_what_was_released_is_true(
        plaintext in prop::collection::vec(any::<u8>(), 0..400),
        frame in 16u32..100,
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut sealed = seal_parts(frame, &plaintext, 50).concat();
        let at = at.index(sealed.len());
        sealed[at] ^= 1 << bit;
        let (released, result) = open(&sealed, 37);
        prop_assert!(result.is_err());
        prop_assert!(plaintext.starts_with(&released));
    }

    #[test]
    fn any_cut_or_addition_is_refused(
        plaintext in prop::collection::vec(any::<u8>(), 0..400),
        frame in 16u32..100,
        at in any::<prop::sample::Index>(),
        more in prop::collection::vec(any::<u8>(), 1..50),
    ) {
        let sealed = seal_parts(frame, &plaintext, 50).concat();
        let cut = at.index(sealed.len());
        let (released, result) = open(&sealed[..cut], 37);
        prop_assert!(result.is_err() && plaintext.starts_with(&released));
        let mut longer = sealed;
        longer.splice(cut..cut, more);
        let (released, result) = open(&longer, 37);
        prop_assert!(result.is_err() && plaintext.starts_with(&released));
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_believe(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(open(&bytes, 64).1.is_err());
        let mut header = seal_parts(16, b"", 1)[0].to_vec();
        header.truncate(40);
        header.extend(bytes);
        prop_assert!(open(&header, 64).1.is_err());
    }
}
