//! JSON Lines: the record as it is, with its number in front.

use std::io::{self, Write};

use super::Entry;

/// Writes the record with the member `seq` before its own, and a line feed.
///
/// # Errors
/// It cannot be written, or the record is no JSON object.
pub fn write(entry: &Entry<'_>, out: &mut impl Write) -> io::Result<()> {
    let rest = entry.payload.strip_prefix(b"{").ok_or_else(|| {
        let text = format!("record {} is no JSON object", entry.seq);
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    write!(out, "{{\"seq\":{},", entry.seq)?;
    out.write_all(rest)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_in_front_and_the_rest_as_it_was() {
        let mut out = Vec::new();
        write(&Entry::new(7, br#"{"v":1,"kind":"event"}"#), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"seq\":7,\"v\":1,\"kind\":\"event\"}\n");
        assert!(write(&Entry::new(7, b"[]"), &mut Vec::new()).unwrap_err().to_string().contains("record 7"));
    }
}
