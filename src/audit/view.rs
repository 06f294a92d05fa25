//! A record as readers see it: members by their name, borrowed from its bytes; what a later version added is passed over.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::record::{Ending, Verdict};
use crate::model::{Level, RecordId};

/// A text of a record: borrowed unless it was escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str> + ?Sized> PartialEq<T> for Text<'_> {
    fn eq(&self, other: &T) -> bool {
        *self.0 == *other.as_ref()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Any)
    }
}

/// What tools show and search of a record. Members that the kind of record lacks are empty.
#[derive(Debug, Clone, Deserialize)]
pub struct RecordView<'a> {
    /// `decision`, `outcome`, `refusal`, `refusals` or `event`.
    #[serde(borrow)]
    pub kind: Text<'a>,
    /// The crossing.
    pub id: Option<RecordId>,
    /// Which attempt of the crossing.
    pub attempt: Option<u16>,
    /// When it happened.
    pub time: Timestamp,
    /// The gateway instance that wrote it.
    pub gateway: Option<Text<'a>>,
    /// What was decided.
    pub decision: Option<Verdict>,
    /// The stable code of a denial, refusal or failure.
    pub code: Option<Text<'a>>,
    /// The policies that decided, by `@id`.
    #[serde(default)]
    pub policies: Vec<Text<'a>>,
    /// The route that matched.
    pub route: Option<Text<'a>>,
    /// The tenant.
    pub tenant: Option<Text<'a>>,
    /// Who asked.
    pub principal: Option<PartyView<'a>>,
    /// The Cedar action.
    pub action: Option<Text<'a>>,
    /// The Cedar resource.
    pub resource: Option<EntityView<'a>>,
    /// Where the data would go.
    pub destination: Option<Text<'a>>,
    /// The effective label.
    pub label: Option<MarkingView<'a>>,
    /// The protection that was decided.
    pub protection: Option<Text<'a>>,
    /// The endpoint of the attempt.
    pub upstream: Option<UpstreamView<'a>>,
    /// The request as it was seen.
    pub request: Option<RequestView<'a>>,
    /// The hash of the policy bundle.
    pub bundle: Option<Text<'a>>,
    /// The address of whoever connected.
    pub peer: Option<Text<'a>>,
    /// The method, of a refusal.
    pub method: Option<Text<'a>>,
    /// The host, of a refusal.
    pub host: Option<Text<'a>>,
    /// The path, of a refusal.
    pub path: Option<Text<'a>>,
    /// The OpenTelemetry trace.
    pub trace_id: Option<Text<'a>>,
    /// The status that the client got.
    pub status: Option<u16>,
    /// How it ended.
    pub ending: Option<Ending>,
    /// What happened, of an event.
    pub event: Option<Text<'a>>,
    /// How many, of counted refusals and some events.
    pub count: Option<u64>,
}

/// The principal.
#[derive(Debug, Clone, Deserialize)]
pub struct PartyView<'a> {
    /// `User` or `Workload`.
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    /// The id.
    pub id: Text<'a>,
    /// Its teams.
    #[serde(default)]
    pub teams: Vec<Text<'a>>,
}

/// An entity.
#[derive(Debug, Clone, Deserialize)]
pub struct EntityView<'a> {
    /// The type without the namespace.
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    /// The id.
    pub id: Text<'a>,
}

impl EntityView<'_> {
    /// As tables show it: `Model eu/llama`.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{} {}", &*self.kind, &*self.id)
    }
}

/// The effective label.
#[derive(Debug, Clone, Deserialize)]
pub struct MarkingView<'a> {
    /// How sensitive, by name.
    #[serde(borrow)]
    pub level: Text<'a>,
    /// Where it may be.
    #[serde(default)]
    pub residency: Vec<Text<'a>>,
    /// Who fixed the level.
    pub origin: Option<Text<'a>>,
}

/// An endpoint.
#[derive(Debug, Clone, Deserialize)]
pub struct UpstreamView<'a> {
    /// The cluster, store or service.
    #[serde(borrow)]
    pub name: Text<'a>,
}

/// A request.
#[derive(Debug, Clone, Deserialize)]
pub struct RequestView<'a> {
    /// The method.
    #[serde(borrow)]
    pub method: Text<'a>,
    /// The host.
    pub host: Text<'a>,
    /// The path.
    pub path: Text<'a>,
}

impl<'a> RecordView<'a> {
    /// Reads a record's bytes.
    ///
    /// # Errors
    /// It is no record, or one of a version that changed the meaning of a member.
    pub fn parse(payload: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(payload)
    }

    /// The route, if one matched.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref().filter(|route| !route.is_empty())
    }

    /// The Cedar action.
    #[must_use]
    pub fn action(&self) -> Option<&str> {
        self.action.as_deref()
    }

    /// The cluster that the data would go to.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        self.destination.as_deref()
    }

    /// The name of what the attempt goes to.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        self.upstream.as_ref().map(|upstream| &*upstream.name)
    }

    /// The model, as its cluster names it.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        let resource = self.resource.as_ref().filter(|resource| resource.kind == "Model")?;
        resource.id.split_once('/').map(|(_, model)| model)
    }

    /// The level of the effective label.
    #[must_use]
    pub fn level(&self) -> Option<Level> {
        self.label.as_ref()?.level.parse().ok()
    }
}

/// Makes a text safe for a terminal: no control, invisible or direction-changing characters.
#[must_use]
pub fn printable(text: &str) -> String {
    let harmless = |c: char| {
        let format = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
        !c.is_control() && !format
    };
    text.chars()
        .flat_map(|c| {
            let escaped = (!harmless(c)).then(|| c.escape_unicode());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_chose_cannot_drive_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\r\né"), "a\\u{1b}[2Jb\\u{202e}c\\u{d}\\u{a}é");
    }

    #[test]
    fn an_escaped_text_is_read_and_a_plain_one_borrowed() {
        let json = br#"{"kind":"refusal","time":"2026-01-01T00:00:00Z","path":"/\"x","host":"h","new":[1]}"#;
        let view = RecordView::parse(json).unwrap();
        assert!(matches!(&view.path, Some(Text(Cow::Owned(path))) if path == "/\"x"));
        assert!(matches!(&view.host, Some(Text(Cow::Borrowed("h")))));
    }
}
