//! Every code that a refusal can carry: the one table of names, statuses and meanings.
//!
//! `docs/errors.md` is generated from it. A code is a contract: clients and alerts match on it.

use std::fmt::Write as _;

/// One code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The stable name.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The problem's title.
    pub title: &'static str,
    /// What it means and what to do, for the reference.
    pub meaning: &'static str,
}

const fn code(name: &'static str, status: u16, title: &'static str, meaning: &'static str) -> Code {
    Code { name, status, title, meaning }
}

const INTERNAL: Code = code(
    "internal",
    500,
    "Internal error",
    "The gateway failed; nothing was forwarded after the failure. The operator's log has the cause under the record's id.",
);

/// The code of that name; an unknown name is a fault of ours and reported as `internal`.
pub(crate) fn find(name: &str) -> &'static Code {
    ALL.iter().find(|code| code.name == name).unwrap_or(&INTERNAL)
}

/// The reference of all codes, as Markdown: `docs/errors.md`.
#[must_use]
pub fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut sorted: Vec<&Code> = ALL.iter().collect();
    sorted.sort_by_key(|code| (code.status, code.name));
    for code in sorted {
        let _ = writeln!(page, "| `{}` | {} | {} | {} |", code.name, code.status, code.title, code.meaning);
    }
    page
}

const INTRODUCTION: &str = "\
# Errors

```sh
curl -s https://… | jq .code,.detail,.record          # what an answer of ours says
tidegate audit query --journal journal --id RECORD     # what the journal knows about it
```

Every refusal that the gateway answers itself is `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with a stable
`code`, a public `detail` and the `record`'s id, which is also in the header `tidegate-record`. Codes are a contract: they never change their
meaning. Nothing internal is in an answer; the operator's log has the cause under the record's id. This page is generated from the code.

| code | status | title | meaning |
|---|---|---|---|
";

/// All codes.
pub const ALL: &[Code] = &[
    INTERNAL,
    code("host_missing", 400, "No host", "The request names no host (RFC 9112 3.2)."),
    code(
        "host_ambiguous",
        400,
        "Ambiguous host",
        "Several hosts, or `Host` and the target's authority differ.",
    ),
    code(
        "host_invalid",
        400,
        "Invalid host",
        "The host is no registered name or IP literal with an optional port.",
    ),
    code("target_form", 400, "Unsupported target", "The request target must be a path or an absolute URI."),
    code(
        "path_ambiguous",
        400,
        "Ambiguous path",
        "Empty or dot segments, a backslash or a semicolon: servers disagree about what such a path names. Send the path that you mean.",
    ),
    code(
        "path_encoding",
        400,
        "Ambiguous path encoding",
        "A percent escape that is invalid, doubled, or stands for a slash, backslash, dot or NUL.",
    ),
    code(
        "query_ambiguous",
        400,
        "Ambiguous query",
        "A raw `;`: some servers split there. Encode it as `%3B`.",
    ),
    code(
        "query_encoding",
        400,
        "Invalid query encoding",
        "A broken percent escape, or a value that is not UTF-8.",
    ),
    code("query_too_many_pairs", 400, "Too many query parameters", "More pairs than the bound."),
    code("uri_too_long", 414, "Target too long", "The request target is longer than the configured bound."),
    code(
        "method_not_allowed",
        405,
        "Method not allowed",
        "The route, or this gateway, does not serve the method; `Allow` lists those that are served.",
    ),
    code("upgrade_refused", 400, "Upgrade refused", "The gateway never tunnels: `Upgrade` is not served."),
    code("version_unsupported", 505, "Version not supported", "Only HTTP/1.1 and HTTP/2 are served."),
    code(
        "header_underscore",
        400,
        "Underscore in a header name",
        "Servers map `_` to `-`, so the name is ambiguous.",
    ),
    code("header_duplicated", 400, "Duplicated header", "A header that may occur once occurs again."),
    code(
        "header_too_large",
        431,
        "Headers too large",
        "The headers are larger or more than the configured bounds.",
    ),
    code(
        "connection_option",
        400,
        "Unacceptable connection option",
        "`Connection` names an end-to-end header, which would remove it on the way.",
    ),
    code("expectation_failed", 417, "Expectation failed", "Only `100-continue` is served."),
    code(
        "body_too_large",
        413,
        "Body too large",
        "The body is larger than the bound of the route or of its kind.",
    ),
    code("body_unexpected", 400, "Unexpected body", "A GET or HEAD request with a body has no meaning."),
    code("framing_ambiguous", 400, "Ambiguous framing", "The length of the body can be read in two ways."),
    code("transfer_coding", 501, "Transfer coding not served", "Only `chunked` is served."),
    code("route_not_found", 404, "No such route", "No route matches host and path."),
    code(
        "credentials_missing",
        401,
        "Credentials missing",
        "The route asks for an identity and none was shown: a bearer token, an API key or a client certificate.",
    ),
    code("credentials_ambiguous", 401, "Credentials ambiguous", "More than one credential was shown."),
    code(
        "credentials_unsupported",
        401,
        "Credentials unsupported",
        "`Authorization` holds something else than a bearer token.",
    ),
    code("token_malformed", 401, "Token malformed", "The bearer token is no compact JWS within the bounds."),
    code(
        "token_algorithm",
        401,
        "Token algorithm refused",
        "The token's algorithm is not allowed for its issuer, or does not fit the key.",
    ),
    code("token_type", 401, "Token type refused", "The token is of another kind, an ID token for example."),
    code("token_key_unknown", 401, "Token key unknown", "The issuer's key set has no such key."),
    code("token_signature", 401, "Token signature invalid", "The signature does not verify."),
    code("token_expired", 401, "Token expired", "Get a new token."),
    code("token_not_yet_valid", 401, "Token not yet valid", "Compare the clocks."),
    code("token_audience", 401, "Token for someone else", "The audience is not this gateway's."),
    code("token_issuer", 401, "Token issuer unknown", "The issuer is not configured."),
    code(
        "token_claims",
        401,
        "Token claims refused",
        "A claim is missing, doubled, of a wrong type or out of bounds.",
    ),
    code(
        "token_binding",
        401,
        "Token bound to another client",
        "The token's `cnf` names another client certificate.",
    ),
    code("token_tenant_missing", 401, "Token without tenant", "The claim that names the tenant is missing."),
    code(
        "certificate_invalid",
        401,
        "Client certificate invalid",
        "Outside its validity, an authority's certificate, or trusted no longer since authorities or revocation lists changed.",
    ),
    code(
        "certificate_identity",
        401,
        "Client certificate without identity",
        "It must carry exactly one SPIFFE ID, of a configured trust domain.",
    ),
    code("api_key_unknown", 401, "API key unknown", "There is no such key."),
    code("api_key_expired", 401, "API key expired", "Ask for a new key."),
    code(
        "credential_revoked",
        401,
        "Credential revoked",
        "The token, key or certificate is on the gateway's list of revocations. Get a new one.",
    ),
    code(
        "principal_revoked",
        403,
        "Caller revoked",
        "The subject, or a workload behind the request, is on the gateway's list of revocations.",
    ),
    code(
        "permission_withdrawn",
        403,
        "Permission withdrawn",
        "The request was permitted when it began; policies or entities changed, and do not permit it any more. An upload or answer that was under way is not whole.",
    ),
    code(
        "keys_unavailable",
        503,
        "Issuer keys unavailable",
        "The issuer's keys could not be had for longer than the bound; try again later.",
    ),
    code("policy_denied", 403, "Not permitted", "No policy permits the request."),
    code("policy_forbidden", 403, "Forbidden", "A policy forbids the request; the record names it."),
    code(
        "bundle_expired",
        403,
        "Policies expired",
        "The policies that are served have expired, and no newer ones are there: everything is denied.",
    ),
    code(
        "policy_error",
        403,
        "Policy error",
        "A policy could not be evaluated, so the answer is no. Operators are alerted.",
    ),
    code(
        "unknown_entity",
        403,
        "Unknown entity",
        "The request names something that the policies' entities do not know.",
    ),
    code(
        "invalid_authorization_request",
        403,
        "Invalid authorization request",
        "The request does not fit the policies' schema.",
    ),
    code("no_candidate", 503, "No candidate", "Nothing configured can serve the request."),
    code("plaintext_refused", 403, "Plaintext refused", "Data of this level does not leave without TLS."),
    code(
        "rate_limited",
        429,
        "Too many requests",
        "The principal's rate on this route is used up; `Retry-After` says how long.",
    ),
    code(
        "concurrency_limited",
        429,
        "Too many requests at once",
        "The principal has as many requests under way on this route as it may.",
    ),
    code(
        "protection_unavailable",
        503,
        "Protection unavailable",
        "The protection that policy demands cannot be done.",
    ),
    code(
        "not_sealable",
        422,
        "Not sealable",
        "Policy demands sealing, and the request has what would travel in clear or could not be bound to it: a query, a method without a body, or a path or media type that is too long.",
    ),
    code(
        "seal_not_a_peer",
        403,
        "Not a peer",
        "Sealed messages are opened only for a workload with `peer = true` that connects with its certificate, and on a route to a store for a job that sealed what it writes with its own key.",
    ),
    code(
        "seal_malformed",
        422,
        "Sealed message malformed",
        "The body is no sealed message of the one format that is read, or goes over one of its bounds.",
    ),
    code(
        "seal_commitment",
        422,
        "Sealed message refused",
        "The data key is not the one that the message commits to.",
    ),
    code(
        "seal_header_tag",
        422,
        "Sealed message refused",
        "The header was changed, or belongs to another key.",
    ),
    code(
        "seal_frame",
        422,
        "Sealed message refused",
        "A frame was changed, moved, left out or taken from another message; nothing of it or after it was passed on.",
    ),
    code("seal_truncated", 422, "Sealed message cut", "The message ends before its final frame."),
    code("seal_trailing", 422, "Sealed message refused", "Bytes follow the final frame."),
    code(
        "seal_context",
        422,
        "Sealed for another exchange",
        "The message opens, but was made for another tenant, recipient, direction, method, path or request.",
    ),
    code(
        "seal_expired",
        422,
        "Sealed message expired",
        "The message was made to be opened earlier, or expires more than five minutes ahead. Compare the clocks.",
    ),
    code(
        "seal_replayed",
        409,
        "Sealed message opened before",
        "A message is opened once; seal the request anew.",
    ),
    code(
        "replay_full",
        503,
        "Replay memory full",
        "So many sealed messages are under way that a new one cannot be remembered; try again later.",
    ),
    code(
        "seal_key_unknown",
        422,
        "Key unknown",
        "None of this gateway's keys opens the message, what it says of itself was changed, or its branch key is retired.",
    ),
    code(
        "key_missing",
        503,
        "Key missing",
        "There is no branch key to seal with, or its recipient is not configured; an operator runs `tidegate keys init`.",
    ),
    code(
        "range_not_satisfiable",
        416,
        "Range not satisfiable",
        "The range begins behind the end of the object, or there are several: what is sealed or opened here is one range of an object.",
    ),
    code(
        "object_range_unknown",
        502,
        "Object's bytes unknown",
        "The store's answer does not say which bytes of which version of the object it holds, so it can be neither sealed nor opened.",
    ),
    code(
        "object_changed",
        409,
        "Object changed",
        "The object was written anew or deleted while parts of it were read; ask again.",
    ),
    code(
        "object_unopened",
        502,
        "Object not believed",
        "The object should be sealed at rest, and does not open: it is no sealed message, was made for another place or with another key, was changed or cut; the detail names the code.",
    ),
    code(
        "object_not_sealed",
        422,
        "Object not sealed",
        "The route keeps objects as sealed messages, and what was sent is none that opens with the dataset's key or the sender's own.",
    ),
    code(
        "key_exhausted",
        503,
        "Key exhausted",
        "The branch key has wrapped as many data keys as is safe; an operator runs `tidegate keys rotate`.",
    ),
    code(
        "key_unavailable",
        503,
        "Key unavailable",
        "The key service cannot be reached and the cached key is too old. Nothing is sent unsealed instead.",
    ),
    code(
        "peer_answer_not_sealed",
        502,
        "Answer not sealed",
        "The answer to a sealed request is not sealed, so it was made by somebody without the key, or before the request was opened; the operator's log names the code of the peer's refusal.",
    ),
    code(
        "peer_answer_unopened",
        502,
        "Answer not believed",
        "The answer to a sealed request does not open, or answers another request; the detail names the code.",
    ),
    code("upstream_unreachable", 502, "Upstream unreachable", "No connection to the far side could be made."),
    code("upstream_timeout", 504, "Upstream timeout", "The far side did not answer in time."),
    code("upstream_reset", 502, "Upstream broke off", "The far side broke off before it answered."),
    code(
        "upstream_overloaded",
        503,
        "Upstream overloaded",
        "Every endpoint of the far side has as many requests in flight as it may, and no place in its queue came free in time. Try again after `Retry-After`.",
    ),
    code(
        "upstream_declined",
        503,
        "Upstream declined",
        "The far side answered 429, 502, 503 or 504, another one was tried, and that one could not be reached. In the record of an attempt: another one followed.",
    ),
    code(
        "retry_budget_exhausted",
        503,
        "Retry budget exhausted",
        "The far side failed, another attempt would have been safe, but more than a tenth of its requests are tried again already. Try again after `Retry-After`.",
    ),
    code("upstream_redirect", 502, "Foreign redirect", "The far side redirected out of the border."),
    code(
        "request_body_timeout",
        408,
        "Request body timeout",
        "The client sent nothing of the body for too long.",
    ),
    code(
        "request_body_failed",
        400,
        "Request body failed",
        "The body ended early, or was longer or shorter than declared.",
    ),
    code("request_not_signable", 400, "Request not signable", "The request cannot be signed for the store."),
    code(
        "audit_unavailable",
        503,
        "Not recordable",
        "The request cannot be recorded, so it is not served: the journal's disk is full or failed, or too many requests are under way.",
    ),
    code(
        "panicked",
        500,
        "Internal error",
        "The gateway failed while it handled the request; nothing more was sent.",
    ),
    code("bare_line_feed", 400, "Malformed message", "A line ends with a bare line feed."),
    code("bare_carriage_return", 400, "Malformed message", "A carriage return stands within a line."),
    code(
        "request_line_malformed",
        400,
        "Malformed message",
        "The first line is not `method target version`.",
    ),
    code("http_version_unsupported", 400, "Malformed message", "The version is not HTTP/1.0 or HTTP/1.1."),
    code("target_fragment", 400, "Malformed message", "The target holds a fragment."),
    code("target_byte", 400, "Malformed message", "The target holds a byte that must be percent-encoded."),
    code("header_folded", 400, "Malformed message", "A header is folded over several lines."),
    code("header_space_before_colon", 400, "Malformed message", "White space before a colon."),
    code("header_name_malformed", 400, "Malformed message", "A header name is no token."),
    code("header_value_malformed", 400, "Malformed message", "A header value holds a control byte."),
    code("content_length_repeated", 400, "Malformed message", "`Content-Length` occurs more than once."),
    code("content_length_malformed", 400, "Malformed message", "`Content-Length` is no number."),
    code(
        "transfer_encoding_unsupported",
        400,
        "Malformed message",
        "`Transfer-Encoding` is anything but one `chunked`, or stands in HTTP/1.0.",
    ),
    code("chunk_size_malformed", 400, "Malformed message", "A chunk size is not plain hexadecimal."),
    code(
        "chunk_extension_malformed",
        400,
        "Malformed message",
        "A chunk extension is malformed or too long.",
    ),
    code("chunk_end_malformed", 400, "Malformed message", "A chunk does not end where its size says."),
    code("trailer_forbidden", 400, "Malformed message", "A trailer names a field that only a head may have."),
    code("head_too_large", 431, "Head too large", "The head has more bytes than allowed."),
    code("too_many_headers", 431, "Too many headers", "The head has more fields than allowed."),
    code("head_timeout", 408, "Head timeout", "The head did not arrive in time."),
    code(
        "connections_exhausted",
        503,
        "Connections exhausted",
        "All connection places are taken; the connection is closed without an answer.",
    ),
    code(
        "connections_per_address_exhausted",
        503,
        "Connections exhausted",
        "The address holds as many connections as one may; closed without an answer.",
    ),
    code(
        "handshake_timeout",
        400,
        "Handshake timeout",
        "The TLS handshake did not end in time; closed without an answer.",
    ),
    code("handshake_failed", 400, "Handshake failed", "The TLS handshake failed; closed without an answer."),
    code(
        "client_certificate_unreadable",
        400,
        "Client certificate unreadable",
        "The client certificate cannot be read; closed without an answer.",
    ),
    code(
        "protocol_violation",
        400,
        "Protocol violation",
        "The peer broke HTTP, for HTTP/2 also by a flood; the connection is closed.",
    ),
    code(
        "http2_flood",
        400,
        "HTTP/2 flood",
        "The peer sent PING, SETTINGS, WINDOW_UPDATE or other frames without end; the connection is closed.",
    ),
    code(
        "content_type_unsupported",
        415,
        "Content type not supported",
        "An inference body must be `application/json` in UTF-8.",
    ),
    code(
        "content_encoding_unsupported",
        415,
        "Content encoding not supported",
        "Bodies that are inspected must not be compressed.",
    ),
    code("body_broken", 400, "Body broken off", "The body ended early."),
    code("body_invalid", 400, "Body not valid", "The body is no JSON object of the expected shape."),
    code("body_too_deep", 400, "Body nested too deeply", "More than 64 levels."),
    code(
        "body_ambiguous",
        400,
        "Ambiguous body",
        "A top-level key occurs twice, or looks like a known one in other letters.",
    ),
    code(
        "body_too_slow",
        408,
        "Body too slow",
        "The body has to be read whole, and did not come within `gate.body_time`.",
    ),
    code(
        "held_bodies_full",
        503,
        "No room for the body",
        "The gateway holds `gate.held_bodies` bytes of bodies that are read whole, and this one would have been the largest of those that are still coming. Try again after `Retry-After`.",
    ),
    code("body_idle", 408, "Body timeout", "The client sent nothing of the body for too long."),
    code(
        "body_malformed",
        400,
        "Malformed body",
        "The chunked framing of the upload, its length or its checksum is wrong.",
    ),
    code("model_unknown", 404, "Model unknown", "No cluster of the route serves the model."),
    code(
        "store_operation_unsupported",
        400,
        "Store operation not supported",
        "Only GetObject, HeadObject, PutObject, ListObjectsV2 and DeleteObject are served, with an allow-list of parameters and headers.",
    ),
    code("dataset_unknown", 403, "Dataset unknown", "The object belongs to no configured dataset."),
    code("list_spans_datasets", 403, "Listing too wide", "A listing's prefix must lie inside one dataset."),
    code("length_required", 411, "Length required", "The upload must declare its length."),
    code(
        "label_invalid",
        400,
        "Label invalid",
        "`tidegate-label` is none of public, internal, confidential, restricted.",
    ),
    code(
        "jurisdiction_unknown",
        400,
        "Jurisdiction unknown",
        "`tidegate-residency` names a jurisdiction that the policies do not know.",
    ),
    code(
        "purpose_invalid",
        400,
        "Purpose invalid",
        "`tidegate-purpose` is too long or holds other characters than visible ASCII.",
    ),
    code(
        "route_unconfigured",
        500,
        "Route unconfigured",
        "The route leads to something that is not configured.",
    ),
    code(
        "internal_error",
        500,
        "Internal error",
        "The gateway was about to send to another upstream than the permitted one, and did not.",
    ),
    code(
        "client_too_slow",
        499,
        "Client too slow",
        "The client left the answer lying for longer than `gate.answer_stall`: it was cut, and the far side is free again; only in records, for the head had been sent.",
    ),
    code(
        "client_gone",
        499,
        "Client gone",
        "The client went away before anything was decided; only in records, for nobody was left to answer.",
    ),
];
