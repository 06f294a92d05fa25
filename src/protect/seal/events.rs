//! Event streams (WHATWG HTML, 9.2): each event fills whole frames, so that it can be opened when it arrives.
//!
//! Frames of one message have one length, and only the last may be shorter. So the first event sets the length, and what an event
//! leaves of its last frame is filled with a comment line, which every parser of event streams skips.

use bytes::{Bytes, BytesMut};

use super::FrameLength;

/// The shortest comment line: a colon and a line end.
const SHORTEST_COMMENT: usize = 2;
/// The most of an event that is held before its end is known; a longer one goes out in full frames as it comes.
pub const MAX_HELD: usize = FrameLength::BODY.len();

/// Cuts a stream into events and pads each to the frame border.
#[derive(Debug, Default)]
pub struct EventFrames {
    /// Bytes of the event that is not whole yet.
    held: BytesMut,
    /// How much of `held` was searched for the event's end.
    searched: usize,
    frame_length: Option<FrameLength>,
}

impl EventFrames {
    /// The frame length; known once the first event is whole or too long to be held.
    #[must_use]
    pub const fn frame_length(&self) -> Option<FrameLength> {
        self.frame_length
    }

    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next bytes to seal: a whole event with its padding, or whole frames of one that is too long. None if more must come first.
    pub fn next_event(&mut self) -> Option<Bytes> {
        if let Some(end) = self.event_end() {
            let event = self.held.split_to(end);
            self.searched = 0;
            return Some(self.padded(event));
        }
        if self.held.len() < MAX_HELD {
            return None;
        }
        let frame = self.length_for(self.held.len()).len();
        self.searched = 0;
        Some(self.held.split_to(MAX_HELD / frame * frame).freeze())
    }

    /// What is left when the stream ends without a blank line: it is passed on as it is.
    pub fn finish(&mut self) -> Option<Bytes> {
        let rest = self.held.split();
        if rest.is_empty() { None } else { Some(rest.freeze()) }
    }

    fn length_for(&mut self, event: usize) -> FrameLength {
        *self.frame_length.get_or_insert_with(|| FrameLength::for_event(event))
    }

    fn padded(&mut self, mut event: BytesMut) -> Bytes {
        let frame = self.length_for(event.len()).len();
        let over = event.len() % frame;
        if over != 0 {
            let missing = frame - over;
            // No comment has room in one byte; a frame of one byte has no room for any.
            let padding = if missing < SHORTEST_COMMENT { missing + frame } else { missing };
            if padding >= SHORTEST_COMMENT {
                event.reserve(padding);
                event.extend_from_slice(b":");
                event.resize(event.len() + padding - SHORTEST_COMMENT, b' ');
                event.extend_from_slice(b"\n");
            }
        }
        event.freeze()
    }

    /// The end of the first whole event: behind the line end of its blank line. Line ends are LF, CR LF or CR.
    fn event_end(&mut self) -> Option<usize> {
        // A blank line may have begun in what was searched.
        let start = self.searched.saturating_sub(3);
        let held = self.held.get(start..).unwrap_or_default();
        for at in memchr::memchr2_iter(b'\n', b'\r', held) {
            let rest = held.get(at..).unwrap_or_default();
            let blank = match rest {
                [b'\n', b'\n', ..] | [b'\r', b'\r', ..] => Some(2),
                [b'\n', b'\r', b'\n', ..] => Some(3),
                [b'\r', b'\n', b'\r', b'\n', ..] => Some(4),
                [b'\r', b'\n', b'\n', ..] => Some(3),
                // A CR at the end may be half of a CR LF: wait.
                _ => None,
            };
            if let Some(length) = blank {
                return Some(start + at + length);
            }
        }
        self.searched = self.held.len();
        None
    }
}

/// How many bytes of an opened frame are left when its padding is taken off: a comment of nothing but spaces at its end.
#[must_use]
pub fn without_padding(frame: &[u8]) -> usize {
    let Some(text) = frame.strip_suffix(b"\n") else { return frame.len() };
    let spaces = text.iter().rev().take_while(|byte| **byte == b' ').count();
    let text = text.get(..text.len() - spaces).unwrap_or_default();
    match text.strip_suffix(b":") {
        Some(before) if before.is_empty() || before.ends_with(b"\n") || before.ends_with(b"\r") => {
            before.len()
        }
        _ => frame.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(frames: &mut EventFrames) -> Vec<Bytes> {
        std::iter::from_fn(|| frames.next_event()).collect()
    }

    #[test]
    fn each_event_ends_at_a_frame_border_whatever_its_length() {
        for length in 3..400 {
            let mut frames = EventFrames::default();
            frames.push(b"data: the first event sets the length\n\n");
            frames.push(format!("{}\n\n", "x".repeat(length)).as_bytes());
            let sealed = all(&mut frames);
            let frame = frames.frame_length().unwrap().len();
            assert_eq!(sealed.len(), 2);
            for event in &sealed {
                assert_eq!(event.len() % frame, 0, "{length}");
            }
            let last = sealed[1].chunks(frame).last().unwrap();
            let kept = sealed[1].len() - last.len() + without_padding(last);
            // With one byte missing the comment begins in one frame and ends in the next: it stays, for it does no harm.
            let across = (length + 3).is_multiple_of(frame);
            assert_eq!(kept, if across { sealed[1].len() } else { length + 2 }, "{length}");
        }
    }

    #[test]
    fn all_line_ends_end_an_event_and_a_cut_anywhere_changes_nothing() {
        for stream in ["data: a\n\ndata: b\n\n", "data: a\r\n\r\ndata: b\r\n\r\n", "data: a\r\rdata: b\r\r"] {
            for cut in 0..stream.len() {
                let mut frames = EventFrames::default();
                let mut events = Vec::new();
                let (head, tail) = stream.split_at(cut);
                for part in [head, tail] {
                    frames.push(part.as_bytes());
                    events.extend(all(&mut frames));
                }
                assert_eq!(events.len(), 2, "{stream:?} {cut}");
                assert_eq!(frames.finish(), None);
            }
        }
    }

    #[test]
    fn an_event_without_end_goes_out_in_frames() {
        let mut frames = EventFrames::default();
        frames.push(&vec![b'x'; MAX_HELD + 5]);
        assert_eq!(frames.next_event().unwrap().len(), MAX_HELD);
        assert_eq!(frames.next_event(), None);
        frames.push(b"\n\n");
        let rest = frames.next_event().unwrap();
        assert_eq!(rest.len() % frames.frame_length().unwrap().len(), 0);
    }

    proptest! {
        #[test]
        fn only_padding_is_taken_off(text in "[ :a\n]{0,12}") {
            let kept = without_padding(text.as_bytes());
            let (kept, cut) = text.as_bytes().split_at(kept);
            prop_assert!(cut.is_empty() || cut.starts_with(b":") && cut.ends_with(b"\n"));
            prop_assert!(cut.is_empty() || kept.is_empty() || kept.ends_with(b"\n"));
        }
    }
}
