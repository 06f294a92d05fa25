//! One range of bytes, as a request asks for it (RFC 9110 14.1.2, 14.2).

use std::ops::Range;

/// A range that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteRange {
    /// From a position to another, both included, or to the end.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

/// Several ranges are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Several;

/// Reads the field `Range`. None if it asks for nothing that is understood: such a field is to be ignored.
pub(super) fn parse(field: &str) -> Result<Option<ByteRange>, Several> {
    let Some((unit, set)) = field.split_once('=') else { return Ok(None) };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ok(None);
    }
    let mut specs = set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
    let Some(spec) = specs.next() else { return Ok(None) };
    if specs.next().is_some() {
        return Err(Several);
    }
    let Some((first, last)) = spec.split_once('-') else { return Ok(None) };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Some(ByteRange::From(first, Some(last))),
        (Some(first), None) if last.is_empty() => Some(ByteRange::From(first, None)),
        (None, Some(last)) if first.is_empty() => Some(ByteRange::Last(last)),
        _ => None,
    };
    Ok(range)
}

/// Digits; what is beyond 2^64 lies behind every object's end.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

impl ByteRange {
    /// The bytes of an object of that length; none if there are none.
    pub(super) fn of(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(first, last) => first..last.unwrap_or(u64::MAX).saturating_add(1).min(length),
            Self::Last(count) => length.saturating_sub(count)..length,
        };
        (!range.is_empty()).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_one_reading() {
        use ByteRange::{From, Last};
        for (field, found) in [
            ("bytes=0-0", Some(From(0, Some(0)))),
            ("Bytes = 5-", Some(From(5, None))),
            ("bytes=-7", Some(Last(7))),
            ("bytes=,5-9 ,", Some(From(5, Some(9)))),
            ("bytes=1-99999999999999999999999", Some(From(1, Some(u64::MAX)))),
            ("bytes=9-5", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=5", None),
            ("bytes=", None),
            ("items=0-1", None),
            ("bytes", None),
        ] {
            assert_eq!(parse(field), Ok(found), "{field}");
        }
        assert_eq!(parse("bytes=0-1,5-9"), Err(Several));
    }

    #[test]
    fn ranges_end_with_the_object() {
        for (field, length, found) in [
            ("bytes=0-9", 10, Some(0..10)),
            ("bytes=0-99", 10, Some(0..10)),
            ("bytes=9-", 10, Some(9..10)),
            ("bytes=10-", 10, None),
            ("bytes=-3", 10, Some(7..10)),
            ("bytes=-30", 10, Some(0..10)),
            ("bytes=-0", 10, None),
            ("bytes=-3", 0, None),
            ("bytes=0-", 0, None),
        ] {
            assert_eq!(parse(field).unwrap().unwrap().of(length), found, "{field} of {length}");
        }
    }
}
