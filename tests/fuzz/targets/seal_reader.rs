//! What the fuzzer calls, and what the ordinary tests replay its corpus with. It must not panic.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use tidegate::protect::seal::events::{EventFrames, without_padding};
use tidegate::protect::seal::range::Layout;
use tidegate::protect::seal::{
    Bounds, DataKey, EncryptionContext, FrameLength, MessageId, NewMessage, Opener, Sealer, UnverifiedHeader,
    aes_edk,
};

const TEXT: [u8; 300] = [0x5a; 300];
const FRAME: u32 = 64;

/// A message that opens, made once a process.
struct Known {
    data_key: DataKey,
    parts: Vec<Bytes>,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let data_key = DataKey::from([0x42; 32]);
        let mut context = EncryptionContext::new();
        context.insert("tenant", "acme").unwrap();
        let message = NewMessage {
            message_id: MessageId::from([0x17; 32]),
            edks: vec![
                aes_edk::wrap(&[7; 32], "tidegate", "t/acme/gpu/rest/v1", &data_key, &context).unwrap(),
            ],
            data_key: data_key.clone(),
            context,
            required: EncryptionContext::new(),
            frame_length: FrameLength::new(FRAME).unwrap(),
        };
        let mut sealer = Sealer::new(message).unwrap();
        let mut parts = vec![sealer.header().clone()];
        let mut input = Bytes::from_static(&TEXT);
        while !input.is_empty() {
            parts.extend(sealer.push(&mut input).unwrap().map(BytesMut::freeze));
        }
        parts.push(sealer.finish().unwrap().freeze());
        Known { data_key, parts }
    })
}

/// The first byte chooses what reads the rest, and in what pieces.
pub(crate) fn read(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let piece = usize::from(choice >> 2) + 1;
    match choice & 3 {
        0 => header(rest),
        1 => frames(rest, piece),
        2 => edited(rest, piece),
        _ => {
            events(rest, piece);
            layout(rest);
        }
    }
}

/// Any bytes as a header; what parses must say what it consumed, and must not verify under a key of ours.
fn header(bytes: &[u8]) {
    let Ok(Some((header, length))) = UnverifiedHeader::parse(bytes, &Bounds::default()) else { return };
    assert!(length <= bytes.len() && length <= Bounds::default().header);
    let said = header.unverified();
    assert!(!said.edks().is_empty() && said.edks().len() <= Bounds::default().edks);
    for edk in said.edks() {
        let _ = aes_edk::name_of(edk);
        assert!(aes_edk::unwrap(&[1; 32], "tidegate", "t", edk, said.context()).is_none());
    }
    // Nobody can make a header of our key but we; the known one itself is no finding.
    let mine = known().parts[0] == bytes[..length];
    assert!(header.verify(&known().data_key, &EncryptionContext::new()).is_ok() == mine);
}

fn opener() -> Opener {
    let known = known();
    let (header, _) = UnverifiedHeader::parse(&known.parts[0], &Bounds::default()).unwrap().unwrap();
    header.verify(&known.data_key, &EncryptionContext::new()).unwrap()
}

/// Any bytes behind a header that verifies; only the true text may come out.
fn frames(bytes: &[u8], piece: usize) {
    let (mut opener, mut input, mut text) = (opener(), BytesMut::new(), Vec::new());
    for bytes in bytes.chunks(piece) {
        input.extend_from_slice(bytes);
        loop {
            match opener.next_frame(&mut input) {
                Ok(Some(frame)) => text.extend_from_slice(&frame),
                Ok(None) => break,
                Err(_) => return,
            }
            assert!(TEXT.starts_with(&text));
        }
    }
    if opener.finish(&input).is_ok() {
        assert_eq!(text, TEXT);
    }
}

/// The known message with edits: pairs of a place and a value.
fn edited(edits: &[u8], piece: usize) {
    let mut message = known().parts[1..].concat();
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % message.len();
        message[at] = edit[2];
    }
    frames(&message, piece);
}

/// Any bytes as a stream of events: nothing is lost, and each event ends at a border.
fn events(bytes: &[u8], piece: usize) {
    let (mut cutter, mut out) = (EventFrames::default(), Vec::new());
    for bytes in bytes.chunks(piece) {
        cutter.push(bytes);
        while let Some(event) = cutter.next_event() {
            let frame = cutter.frame_length().unwrap().len();
            assert_eq!(event.len() % frame, 0);
            for frame in event.chunks(frame) {
                assert!(without_padding(frame) <= frame.len());
            }
            out.extend_from_slice(&event);
        }
    }
    out.extend(cutter.finish().into_iter().flatten());
    assert!(out.len() >= bytes.len());
}

/// Any lengths: parts lie within the message.
fn layout(bytes: &[u8]) {
    let Some((numbers, _)) = bytes.split_first_chunk::<20>() else { return };
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| numbers[at + byte])) >> 16;
    let Some(frame) = FrameLength::new(u32::from_be_bytes(std::array::from_fn(|byte| numbers[16 + byte])))
    else {
        return;
    };
    let (header, total) = (number(0) % 70_000, number(8));
    let Ok(layout) = Layout::new(header, frame, total) else { return };
    assert!(layout.plaintext() <= total);
    let (_, last) = layout.final_frame();
    assert!(last.start >= header && last.end == total);
    if let Some(span) = layout.frames(&(0..layout.plaintext())) {
        assert!(span.bytes.start >= header && span.bytes.end <= total && span.take == layout.plaintext());
    }
}
