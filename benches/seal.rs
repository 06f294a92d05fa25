//! What framing costs: the codec beside the bare cipher, interleaved, medians of megabytes for each CPU second.
//!
//! `cargo bench --bench seal`, and with `--features fast-aead` for the other backend.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and may panic")]
#![expect(clippy::cast_possible_truncation, reason = "sizes are small")]

use std::hint::black_box;
use std::time::Duration;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::{Bytes, BytesMut};
use rustix::time::{ClockId, clock_gettime};
use tidegate::protect::seal::{
    Bounds, DataKey, EncryptionContext, FrameLength, MessageId, NewMessage, Sealer, UnverifiedHeader, aes_edk,
};

const KEK: [u8; 32] = [7; 32];
const NAME: &str = "t/acme/gpu/request/v1";
const TOTAL: usize = 16 << 20;
const ROUNDS: usize = 15;

/// CPU time of this thread: other work on the machine counts less than it would on the wall.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = cpu();
    work();
    (cpu() - start).as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap()
}

fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
    let mut context = EncryptionContext::new();
    for (key, value) in pairs {
        context.insert((*key).to_owned(), *value).unwrap();
    }
    context
}

/// What stands in a request's header.
fn facts() -> EncryptionContext {
    context(&[
        ("tenant", "acme"),
        ("recipient", "gpu"),
        ("direction", "request"),
        ("method", "POST"),
        ("path", "/v1/chat/completions"),
        ("level", "restricted"),
        ("decision", "01934567-89ab-7def-8123-456789abcdef"),
        ("expires", "1790000000"),
        ("content-type", "application/json"),
    ])
}

fn message(frame: FrameLength) -> NewMessage {
    let data_key = DataKey::random().unwrap();
    let context = facts();
    NewMessage {
        message_id: MessageId::random().unwrap(),
        edks: vec![aes_edk::wrap(&KEK, "tidegate", NAME, &data_key, &context).unwrap()],
        data_key,
        context,
        required: EncryptionContext::new(),
        frame_length: frame,
    }
}

/// Seals `input`, which comes in pieces of one frame; each frame is dropped as it would be once it is sent.
fn seal(mut sealer: Sealer, input: &Bytes, frame: usize) {
    for at in (0..input.len()).step_by(frame) {
        let mut piece = input.slice(at..input.len().min(at + frame));
        while !piece.is_empty() {
            black_box(sealer.push(&mut piece).unwrap());
        }
    }
    black_box(sealer.finish().unwrap());
}

fn whole(frame: FrameLength, input: &Bytes) -> (DataKey, Bytes) {
    let message = message(frame);
    let data_key = message.data_key.clone();
    let mut sealer = Sealer::new(message).unwrap();
    let mut sealed = BytesMut::from(sealer.header().as_ref());
    let mut input = input.clone();
    while !input.is_empty() {
        sealed.extend(sealer.push(&mut input).unwrap().into_iter().flatten());
    }
    sealed.extend_from_slice(&sealer.finish().unwrap());
    (data_key, sealed.freeze())
}

/// Opens a message that comes in pieces of 64 KiB, as sockets give them.
fn open(data_key: &DataKey, sealed: &Bytes) {
    let (header, length) = UnverifiedHeader::parse(sealed, &Bounds::default()).unwrap().unwrap();
    let mut opener = header.verify(data_key, &EncryptionContext::new()).unwrap();
    let mut input = BytesMut::new();
    for at in (length..sealed.len()).step_by(64 * 1024) {
        input.extend_from_slice(&sealed.slice(at..sealed.len().min(at + 64 * 1024)));
        while let Some(text) = opener.next_frame(&mut input).unwrap() {
            black_box(text);
        }
    }
    opener.finish(&input).unwrap();
}

/// The bare cipher over one buffer, again and again.
fn rust_crypto(cipher: &Aes256Gcm, buffer: &mut [u8], times: usize) {
    for number in 0..times {
        let mut nonce = [0; 12];
        nonce.iter_mut().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
        black_box(cipher.encrypt_inout_detached(&nonce.into(), &[1; 74], (&mut *buffer).into()).unwrap());
    }
}

fn aws_lc(key: &LessSafeKey, buffer: &mut [u8], times: usize) {
    for number in 0..times {
        let mut nonce = [0; 12];
        nonce.iter_mut().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let _ = black_box(key.seal_in_place_separate_tag(nonce, Aad::from([1; 74]), buffer).unwrap());
    }
}

/// The chosen backend's cipher over a copy of each piece: what any writer pays that may not write into its input.
fn copied(rust: &Aes256Gcm, aws: &LessSafeKey, input: &Bytes, frame: usize) {
    for at in (0..input.len()).step_by(frame) {
        let mut copy = BytesMut::with_capacity(frame + 32);
        copy.extend_from_slice(&input.slice(at..input.len().min(at + frame)));
        if cfg!(feature = "fast-aead") {
            aws_lc(aws, &mut copy, 1)
        } else {
            rust_crypto(rust, &mut copy, 1)
        }
        black_box(copy.freeze());
    }
}

fn throughput() {
    let input = Bytes::from(vec![0x5a; TOTAL]);
    let rust = Aes256Gcm::new(&[3; 32].into());
    let aws = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[3; 32]).unwrap());
    let fast = cfg!(feature = "fast-aead");
    println!("   frame   aes-gcm    aws-lc    copied      seal      open   seal/bare open/bare seal/copied");
    for kib in [4usize, 16, 64, 256, 1024] {
        let frame = kib << 10;
        let length = FrameLength::new(frame as u32).unwrap();
        let (data_key, sealed) = whole(length, &input);
        let mut buffer = vec![0x5a; frame];
        let mut times: [Vec<f64>; 5] = Default::default();
        for _ in 0..ROUNDS {
            let [one, two, three, four, five] = &mut times;
            one.push(timed(|| rust_crypto(&rust, &mut buffer, TOTAL / frame)));
            two.push(timed(|| aws_lc(&aws, &mut buffer, TOTAL / frame)));
            three.push(timed(|| seal(Sealer::new(message(length)).unwrap(), &input, frame)));
            four.push(timed(|| open(&data_key, &sealed)));
            five.push(timed(|| copied(&rust, &aws, &input, frame)));
        }
        let [rust, aws, seal, open, copied] = times.map(|times| TOTAL as f64 / 1e6 / median(times));
        let bare = if fast { aws } else { rust };
        println!(
            "{kib:>4} KiB {rust:>9.0} {aws:>9.0} {copied:>9.0} {seal:>9.0} {open:>9.0}   {:>9.2} {:>9.2} {:>11.2}",
            seal / bare,
            open / bare,
            seal / copied
        );
    }
}

/// A body of 1 KiB: fresh key, wrap, derivation, header, one frame; and the way back.
fn small() {
    const TIMES: u32 = 2000;
    let input = Bytes::from(vec![0x5a; 1024]);
    let (mut seals, mut opens) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        seals.push(timed(|| {
            (0..TIMES).for_each(|_| seal(Sealer::new(message(FrameLength::BODY)).unwrap(), &input, 65536))
        }));
        let (_, sealed) = whole(FrameLength::BODY, &input);
        opens.push(timed(|| {
            for _ in 0..TIMES {
                let (header, _) = UnverifiedHeader::parse(&sealed, &Bounds::default()).unwrap().unwrap();
                let edk = header.unverified().edks().first().unwrap();
                let key =
                    aes_edk::unwrap(&KEK, "tidegate", NAME, edk, header.unverified().context()).unwrap();
                open(&key, &sealed);
            }
        }));
    }
    let each = |times: Vec<f64>| median(times) / f64::from(TIMES) * 1e6;
    println!("1 KiB body: seal {:.1} us, open {:.1} us, all in", each(seals), each(opens));
}

fn main() {
    println!(
        "backend: {}; MB for each CPU second",
        if cfg!(feature = "fast-aead") { "aws-lc-rs" } else { "aes-gcm" }
    );
    throughput();
    small();
}
