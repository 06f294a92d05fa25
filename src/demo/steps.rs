//! The requests of the tour, as data: who asks what, and what must become of it under the shipped policies.

use serde_json::{Value, json};

use super::datasets;

/// One request of the tour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Who asks, in words.
    pub(crate) who: &'static str,
    /// What they ask, in words.
    pub(crate) what: &'static str,
    /// How they prove who they are.
    pub(crate) proof: Proof,
    /// The method.
    pub(crate) method: &'static str,
    /// The path, sent byte for byte.
    pub(crate) path: &'static str,
    /// Headers besides the credential.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// The payload.
    pub(crate) payload: Payload,
    /// What must come of it.
    pub(crate) expect: Expect,
}

/// How somebody proves who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A bearer token, by the name of its file in `tokens/`.
    Token(&'static str),
    /// A client certificate, by its name in `certs/`.
    Certificate(&'static str),
    /// Not at all.
    Nothing,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload {
    /// A chat completion.
    Chat { model: &'static str, prompt: &'static str, stream: bool },
    /// An embedding.
    Embed { text: &'static str },
    /// No body.
    Nothing,
}

impl Payload {
    /// The JSON body, if there is one.
    pub(crate) fn json(&self) -> Option<Value> {
        match *self {
            Self::Chat { model, prompt, stream } => {
                let mut body = json!({"model": model, "messages": [{"role": "user", "content": prompt}]});
                if stream && let Some(members) = body.as_object_mut() {
                    members.insert("stream".to_owned(), json!(true));
                    members.insert("stream_options".to_owned(), json!({"include_usage": true}));
                }
                Some(body)
            }
            Self::Embed { text } => Some(json!({"model": "tide-embed", "input": text})),
            Self::Nothing => None,
        }
    }
}

/// What must come of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expect {
    /// The status.
    pub(crate) status: u16,
    /// The decision in the journal.
    pub(crate) decision: Decision,
    /// A policy that must be among the deciding ones, or the code where no policy decided.
    pub(crate) reason: &'static str,
    /// The double that the request must reach, exactly once; without one it must reach none.
    pub(crate) arrives: Option<&'static str>,
    /// The effective level that the journal must show, where the step is about it.
    pub(crate) level: Option<&'static str>,
    /// Whether what is sensitive leaves sealed, and who opens it.
    pub(crate) sealed: Sealed,
}

/// How a payload leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// As it is.
    No,
    /// Prompt and answer, for the gateway before the cluster: whoever ends TLS between must not find a phrase of them.
    ForPeer,
    /// The answer, for the job that asked: it must open to this.
    ForJob(&'static str),
}

/// What became of a request, in the words of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Cedar permits it.
    Allowed,
    /// Cedar does not permit it.
    Denied,
    /// It never got to Cedar.
    Refused,
}

impl Decision {
    /// The word in the table.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Refused => "refused",
        }
    }
}

const fn allowed(policy: &'static str, double: &'static str) -> Expect {
    Expect {
        status: 200,
        decision: Decision::Allowed,
        reason: policy,
        arrives: Some(double),
        level: None,
        sealed: Sealed::No,
    }
}

const fn denied(reason: &'static str) -> Expect {
    Expect { status: 403, decision: Decision::Denied, reason, arrives: None, level: None, sealed: Sealed::No }
}

const fn refused(status: u16, code: &'static str) -> Expect {
    Expect {
        status,
        decision: Decision::Refused,
        reason: code,
        arrives: None,
        level: None,
        sealed: Sealed::No,
    }
}

const CHAT: &str = "/v1/chat/completions";
const RESTRICTED: &str = "/restricted/v1/chat/completions";
const CONFIDENTIAL: &str = "/confidential/v1/chat/completions";
const REGISTER: &str = "/lake/clinical/patients/register.csv";
const SECRET: &str = "Invented Person has had chest pain since Tuesday. What should be looked at first?";
const PLAIN: Payload = Payload::Chat { model: "tide-small", prompt: "When is high tide?", stream: false };

/// A chat from which the steps below differ in one or two members.
const BASE: Step = Step {
    who: "ada (research)",
    what: "chat with tide-small",
    proof: Proof::Token("research"),
    method: "POST",
    path: CHAT,
    headers: &[],
    payload: PLAIN,
    expect: allowed("research-models", "eu"),
};

/// The training job reads an object.
const READ: Step = Step {
    who: "trainer (GPU job on eu)",
    proof: Proof::Certificate("trainer"),
    method: "GET",
    payload: Payload::Nothing,
    ..BASE
};

/// What is let through.
const LET_THROUGH: [Step; 11] = [
    BASE,
    Step {
        what: "chat, streamed",
        payload: Payload::Chat { model: "tide-small", prompt: "Tell me of the tides.", stream: true },
        ..BASE
    },
    Step {
        what: "embeddings",
        path: "/v1/embeddings",
        payload: Payload::Embed { text: "neap tide" },
        ..BASE
    },
    Step {
        what: "chat that must stay in the US",
        headers: &[("tidegate-residency", "US")],
        expect: allowed("research-models", "us"),
        ..BASE
    },
    Step {
        who: "mia (marketing)",
        proof: Proof::Token("marketing"),
        expect: allowed("marketing-models", "eu"),
        ..BASE
    },
    Step {
        who: "cleo (clinical)",
        what: "confidential chat, for care",
        proof: Proof::Token("clinical"),
        path: CONFIDENTIAL,
        headers: &[("tidegate-purpose", "care")],
        expect: allowed("clinical-models", "eu"),
        ..BASE
    },
    Step {
        who: "cleo (clinical)",
        what: "restricted chat, for care, sealed",
        proof: Proof::Token("clinical"),
        path: RESTRICTED,
        headers: &[("tidegate-purpose", "care")],
        payload: Payload::Chat { model: "tide-small", prompt: SECRET, stream: false },
        expect: Expect {
            level: Some("restricted"),
            sealed: Sealed::ForPeer,
            ..allowed("clinical-restricted-sealed", "haven")
        },
        ..BASE
    },
    Step {
        what: "read the handbook (public)",
        path: "/lake/commons/handbook/handbook.md",
        expect: allowed("handbook-for-all", "lake"),
        ..READ
    },
    Step {
        what: "read some of the trials (confidential)",
        path: "/lake/clinical/trials/2031.csv",
        headers: &[("range", "bytes=0-15")],
        expect: Expect { status: 206, ..allowed("trainer-reads-trials", "lake") },
        ..READ
    },
    Step {
        who: "scanner (GPU job on haven)",
        what: "read the patients (restricted), sealed",
        proof: Proof::Certificate("scanner"),
        path: REGISTER,
        expect: Expect {
            sealed: Sealed::ForJob(datasets::PATIENTS.text),
            ..allowed("scanner-reads-patients-sealed", "lake")
        },
        ..READ
    },
    Step {
        who: "nobody",
        what: "read the status page",
        proof: Proof::Nothing,
        method: "GET",
        path: "/status",
        payload: Payload::Nothing,
        expect: allowed("status-for-anyone", "status"),
        ..BASE
    },
];

/// What is not.
const HELD_BACK: [Step; 12] = [
    Step {
        who: "mia (marketing)",
        what: "confidential chat by the wrong team",
        proof: Proof::Token("marketing"),
        payload: Payload::Chat { model: "tide-large", prompt: "Which trial went well?", stream: false },
        headers: &[("tidegate-label", "confidential")],
        expect: denied("policy_denied"),
        ..BASE
    },
    Step {
        who: "mia (marketing)",
        what: "lower a confidential label to public",
        proof: Proof::Token("marketing"),
        path: CONFIDENTIAL,
        headers: &[("tidegate-label", "public")],
        expect: Expect { level: Some("confidential"), ..denied("policy_denied") },
        ..BASE
    },
    Step {
        what: "chat of EU-only data, US cluster only",
        path: "/us/v1/chat/completions",
        headers: &[("tidegate-residency", "EU")],
        expect: denied("residency"),
        ..BASE
    },
    Step {
        what: "chat raised to restricted",
        headers: &[("tidegate-label", "restricted")],
        expect: Expect { level: Some("restricted"), ..denied("restricted-only-sealed") },
        ..BASE
    },
    Step {
        who: "cleo (clinical)",
        what: "restricted chat, to a cluster without the key",
        proof: Proof::Token("clinical"),
        path: CONFIDENTIAL,
        headers: &[("tidegate-label", "restricted"), ("tidegate-purpose", "care")],
        payload: Payload::Chat { model: "tide-small", prompt: SECRET, stream: false },
        expect: Expect { level: Some("restricted"), ..denied("restricted-only-sealed") },
        ..BASE
    },
    Step {
        what: "read the patients (restricted)",
        path: REGISTER,
        expect: denied("restricted-only-sealed"),
        ..READ
    },
    Step {
        who: "helper (agent of ada)",
        what: "delete the trials",
        proof: Proof::Token("agent"),
        method: "DELETE",
        path: "/lake/clinical/trials/2031.csv",
        payload: Payload::Nothing,
        expect: denied("agents-never-delete"),
        ..BASE
    },
    Step {
        what: "chat with an unknown model",
        payload: Payload::Chat { model: "tide-huge", prompt: "Are you there?", stream: false },
        expect: refused(404, "model_unknown"),
        ..BASE
    },
    Step {
        who: "somebody as ada",
        what: "chat with a forged token",
        proof: Proof::Token("forged"),
        expect: refused(401, "token_signature"),
        ..BASE
    },
    Step {
        what: "chat with an expired token",
        proof: Proof::Token("expired"),
        expect: refused(401, "token_expired"),
        ..BASE
    },
    Step {
        who: "nobody",
        what: "chat without a credential",
        proof: Proof::Nothing,
        expect: refused(401, "credentials_missing"),
        ..BASE
    },
    Step {
        what: "chat by an ambiguous path",
        path: "/v1/embeddings/%2e%2e/chat/completions",
        expect: refused(400, "path_encoding"),
        ..BASE
    },
];

/// The whole tour, in order.
pub(crate) fn all() -> impl Iterator<Item = &'static Step> {
    LET_THROUGH.iter().chain(&HELD_BACK)
}
