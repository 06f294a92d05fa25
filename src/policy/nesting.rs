//! How deep a policy may nest, found before anything parses it: Cedar's parser and what walks its trees call themselves once a level, and a stack
//! that overflows takes the whole process with it.

/// The most brackets within each other, and the most `if`s of one policy.
pub(super) const MAX_NESTING: usize = 200;
/// The most operators of one policy: a chain such as `a && b && c` becomes a tree as deep as it is long.
pub(super) const MAX_OPERATORS: usize = 1_000;
/// The stack on which policies are parsed and validated: what the two bounds can need, several times over, without optimisation.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// What is too much, and where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooDeep {
    /// The line, from 1.
    pub(super) line: usize,
    /// What there is too much of.
    pub(super) what: String,
}

/// Looks through a policy file or a schema once, without recursion.
pub(super) fn check(text: &str) -> Result<(), TooDeep> {
    let mut seen = Seen::default();
    let mut rest = text.as_bytes();
    let mut line = 1;
    while let Some((byte, tail)) = rest.split_first() {
        let taken = match byte {
            b'"' => string(rest),
            b'/' if tail.first() == Some(&b'/') => until(rest, b'\n'),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => word(rest),
            _ => 1,
        };
        let (token, after) = rest.split_at_checked(taken).unwrap_or((rest, &[]));
        seen.note(token);
        if let Some(what) = seen.too_much() {
            return Err(TooDeep { line, what });
        }
        line += token.iter().filter(|byte| **byte == b'\n').count();
        rest = after;
    }
    Ok(())
}

/// The depth-makers of the statement that is being read.
#[derive(Default)]
struct Seen {
    brackets: usize,
    ifs: usize,
    operators: usize,
}

impl Seen {
    fn note(&mut self, token: &[u8]) {
        match token {
            b"(" | b"[" | b"{" | b"<" => {
                self.brackets += 1;
                self.operators += 1;
            }
            b")" | b"]" | b"}" | b">" => self.brackets = self.brackets.saturating_sub(1),
            b"if" => self.ifs += 1,
            b"&" | b"|" | b"." | b"!" | b"+" | b"-" | b"*" | b"=" => self.operators += 1,
            b"in" | b"has" | b"like" | b"is" => self.operators += 1,
            b";" => *self = Self::default(),
            _ => {}
        }
    }

    fn too_much(&self) -> Option<String> {
        let of = |count: usize, most: usize, what: &str| {
            (count > most).then(|| format!("has more than {most} {what}"))
        };
        of(self.brackets, MAX_NESTING, "brackets within each other")
            .or_else(|| of(self.ifs, MAX_NESTING, "`if`s"))
            // Two letters of `&&`, `||` and `==` are one operator.
            .or_else(|| of(self.operators / 2, MAX_OPERATORS, "operators"))
    }
}

/// The length of a string literal, its quotes included; of all that is left if it does not end.
fn string(bytes: &[u8]) -> usize {
    let mut escaped = false;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}

fn until(bytes: &[u8], end: u8) -> usize {
    memchr::memchr(end, bytes).unwrap_or(bytes.len())
}

fn word(bytes: &[u8]) -> usize {
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    bytes.iter().position(|byte| !inside(byte)).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_let_through() {
        for text in [
            "",
            "permit (principal, action, resource) when { context.data.level < 3 };",
            "// ((((\n@id(\"((((\\\"((\")\npermit (principal, action, resource);",
            include_str!("../../policies/tidegate.cedarschema"),
            include_str!("../../policies/10-safety.cedar"),
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        let members = (0..4_000).map(|n| format!("Tidegate::Team::\"t{n}\"")).collect::<Vec<_>>().join(", ");
        assert_eq!(
            check(&format!("permit (principal, action, resource) when {{ principal in [{members}] }};")),
            Ok(())
        );
        let many = "permit (principal, action, resource) when { a.b == c.d && e.f };\n".repeat(5_000);
        assert_eq!(check(&many), Ok(()), "each statement counts for itself");
    }

    #[test]
    fn what_would_overflow_the_stack_is_not() {
        let deep = |count: usize| {
            format!("\n\npermit (a) when {{ {}true{} }};", "(".repeat(count), ")".repeat(count))
        };
        assert_eq!(check(&deep(198)), Ok(()));
        let error = check(&deep(300)).unwrap_err();
        assert_eq!((error.line, error.what.as_str()), (3, "has more than 200 brackets within each other"));
        assert!(check(&"[".repeat(1 << 20)).is_err());
        assert!(check(&"!".repeat(1 << 20)).is_err());
        assert!(check(&"if a then b else ".repeat(300)).unwrap_err().what.contains("`if`s"));
        assert!(check(&vec!["a"; 3_000].join(" && ")).is_err());
        assert!(check(&"type A = Set<".repeat(300)).is_err());
    }
}
