//! A GPU cluster that is none: a test double that speaks the OpenAI API over plain HTTP on loopback.
//!
//! It computes nothing. A chat answer is put together from the prompt, a vector from a hash of the text, and a token is a
//! word, so that every answer can be foretold. It is strict where a real cluster is: it wants its own key, not the caller's.

use std::collections::VecDeque;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::double::{self, Answer, Pieces};

/// The length of an embedding.
const DIMENSIONS: usize = 16;

/// The pause between two chunks of a stream.
const PAUSE: Duration = Duration::from_millis(4);

/// The longest answer, in words.
const MAX_WORDS: usize = 64;

/// The header that says which double answered.
pub(crate) const CLUSTER_HEADER: &str = "x-demo-cluster";

/// A pretended cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    name: String,
    header: HeaderValue,
    credential: String,
    models: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Chat {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: StreamOptions,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    content: Value,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
struct Embeddings {
    model: String,
    input: Texts,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// A finished answer, before it is cut into a body.
#[derive(Debug)]
struct Completion {
    id: String,
    model: String,
    words: Vec<String>,
    finish: &'static str,
    usage: Value,
}

impl Cluster {
    /// A cluster that serves these models to whoever shows this key.
    pub(crate) fn new(name: &str, credential: &str, models: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            header: HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("unnamed")),
            credential: format!("Bearer {credential}"),
            models: models.iter().map(ToString::to_string).collect(),
        }
    }

    fn dispatch(&self, request: &Request<Bytes>) -> Response<Pieces> {
        let credential = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        if credential != Some(self.credential.as_bytes()) {
            return refuse(StatusCode::UNAUTHORIZED, "invalid_api_key", "this cluster wants its own key");
        }
        // By its end, so that a route may lead here under a prefix of its own.
        let path = request.uri().path();
        if request.method() == Method::POST && path.ends_with("/v1/chat/completions") {
            self.chat(request.body())
        } else if request.method() == Method::POST && path.ends_with("/v1/embeddings") {
            self.embeddings(request.body())
        } else if request.method() == Method::GET && path.ends_with("/v1/models") {
            self.models()
        } else {
            refuse(StatusCode::NOT_FOUND, "not_found", "this cluster knows no such path")
        }
    }

    fn chat(&self, body: &[u8]) -> Response<Pieces> {
        let chat: Chat = match serde_json::from_slice(body) {
            Ok(chat) => chat,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string()),
        };
        if !self.models.contains(&chat.model) {
            return no_model(&chat.model);
        }
        let completion = self.complete(&chat, body);
        if chat.stream { stream(&completion, chat.stream_options.include_usage) } else { plain(&completion) }
    }

    fn complete(&self, chat: &Chat, body: &[u8]) -> Completion {
        let texts: Vec<String> = chat.messages.iter().map(|message| text_of(&message.content)).collect();
        let prompt_tokens: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
        let question = chat.messages.iter().zip(&texts).rfind(|(message, _)| message.role == "user");
        let question = question.map_or("", |(_, text)| text.as_str());
        let answer = format!("{} on cluster {} was asked: {question}", chat.model, self.name);
        let wanted = chat.max_completion_tokens.or(chat.max_tokens).unwrap_or(MAX_WORDS).min(MAX_WORDS);
        let all: Vec<&str> = answer.split_whitespace().collect();
        let words: Vec<String> = all.iter().take(wanted).map(ToString::to_string).collect();
        let usage = json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": words.len(),
            "total_tokens": prompt_tokens + words.len(),
        });
        Completion {
            id: format!("chatcmpl-{}", hex_of(body, 12)),
            model: chat.model.clone(),
            finish: if words.len() < all.len() { "length" } else { "stop" },
            words,
            usage,
        }
    }

    fn embeddings(&self, body: &[u8]) -> Response<Pieces> {
        let request: Embeddings = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string()),
        };
        if !self.models.contains(&request.model) {
            return no_model(&request.model);
        }
        let texts = match request.input {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        };
        let tokens: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
        let data: Vec<Value> = texts
            .iter()
            .enumerate()
            .map(|(index, text)| json!({"object": "embedding", "index": index, "embedding": vector(text)}))
            .collect();
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
        double::json(
            StatusCode::OK,
            &json!({"object": "list", "data": data, "model": request.model, "usage": usage}),
        )
    }

    fn models(&self) -> Response<Pieces> {
        let data: Vec<Value> = self
            .models
            .iter()
            .map(|id| json!({"id": id, "object": "model", "created": 0, "owned_by": self.name}))
            .collect();
        double::json(StatusCode::OK, &json!({"object": "list", "data": data}))
    }
}

impl Answer for Cluster {
    fn answer(&self, request: &Request<Bytes>) -> Response<Pieces> {
        let mut response = self.dispatch(request);
        response.headers_mut().insert(CLUSTER_HEADER, self.header.clone());
        response
    }
}

fn plain(completion: &Completion) -> Response<Pieces> {
    let message = json!({"role": "assistant", "content": completion.words.join(" ")});
    double::json(
        StatusCode::OK,
        &json!({
            "id": completion.id, "object": "chat.completion", "created": 0, "model": completion.model,
            "choices": [{"index": 0, "message": message, "finish_reason": completion.finish}],
            "usage": completion.usage,
        }),
    )
}

/// Server-sent events as OpenAI sends them: role, one chunk a word, finish reason, usage if wanted, `[DONE]`.
fn stream(completion: &Completion, include_usage: bool) -> Response<Pieces> {
    let event = |choices: Value, usage: &Value| {
        let mut chunk = json!({
            "id": completion.id, "object": "chat.completion.chunk", "created": 0, "model": completion.model,
            "choices": choices,
        });
        if include_usage && let Some(members) = chunk.as_object_mut() {
            members.insert("usage".to_owned(), usage.clone());
        }
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    let choice =
        |delta: Value, finish: Option<&str>| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let mut events = VecDeque::new();
    events.push_back(event(choice(json!({"role": "assistant", "content": ""}), None), &Value::Null));
    for (index, word) in completion.words.iter().enumerate() {
        let text = if index == 0 { word.clone() } else { format!(" {word}") };
        events.push_back(event(choice(json!({"content": text}), None), &Value::Null));
    }
    events.push_back(event(choice(json!({}), Some(completion.finish)), &Value::Null));
    if include_usage {
        events.push_back(event(json!([]), &completion.usage));
    }
    events.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    let mut response = Response::new(Pieces::paced(events, PAUSE));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// The text of a message: a string, or the text parts of a list of parts.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
            texts.join(" ")
        }
        _ => String::new(),
    }
}

/// A vector of length one that depends on the text alone.
fn vector(text: &str) -> Vec<f64> {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let raw: Vec<f64> = hash.as_ref().iter().take(DIMENSIONS).map(|byte| f64::from(*byte) - 127.5).collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
    raw.iter().map(|x| x / length).collect()
}

fn hex_of(bytes: &[u8], digits: usize) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    let all: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    all.chars().take(digits).collect()
}

fn no_model(model: &str) -> Response<Pieces> {
    refuse(StatusCode::NOT_FOUND, "model_not_found", &format!("the model `{model}` is not served here"))
}

/// An error in OpenAI's form.
fn refuse(status: StatusCode, code: &str, message: &str) -> Response<Pieces> {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
    double::json(status, &json!({"error": error}))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::demo::double::Double;
    use crate::demo::double::tests::ask;

    async fn eu() -> Double {
        Double::start(0, Cluster::new("eu", "k", &["tide-small", "tide-embed"])).await.unwrap()
    }

    fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
        Request::post(path).header("authorization", "Bearer k").body(Full::from(body.to_string())).unwrap()
    }

    async fn value(double: &Double, request: Request<Full<Bytes>>) -> (StatusCode, Value) {
        let response = ask(double.address(), request).await;
        assert_eq!(response.headers()[CLUSTER_HEADER], "eu");
        (response.status(), serde_json::from_slice(response.body()).unwrap())
    }

    #[tokio::test]
    async fn a_chat_answers_from_the_prompt_and_counts_words() {
        let eu = eu().await;
        let body = json!({"model": "tide-small", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is a tide?"}]},
        ]});
        let (status, answer) = value(&eu, post("/v1/chat/completions", &body)).await;
        assert_eq!(status, 200);
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert_eq!(text, "tide-small on cluster eu was asked: What is a tide?");
        assert_eq!(answer["usage"], json!({"prompt_tokens": 6, "completion_tokens": 10, "total_tokens": 16}));
        assert_eq!(eu.log().take().len(), 1);
    }

    #[tokio::test]
    async fn a_stream_carries_the_same_words_and_usage_only_if_asked() {
        let eu = eu().await;
        for include in [false, true] {
            let body = json!({"model": "tide-small", "stream": true, "max_tokens": 3,
                "stream_options": {"include_usage": include},
                "messages": [{"role": "user", "content": "hi"}]});
            let response = ask(eu.address(), post("/v1/chat/completions", &body)).await;
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            assert!(!response.headers().contains_key("content-length"));
            let text = std::str::from_utf8(response.body()).unwrap();
            let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
            assert_eq!(events.pop(), Some("data: [DONE]"));
            let chunks: Vec<Value> = events
                .iter()
                .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
                .collect();
            let words: String =
                chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
            assert_eq!(words, "tide-small on cluster");
            assert!(chunks.iter().any(|c| c["choices"][0]["finish_reason"] == "length"));
            let usage: Vec<&Value> = chunks.iter().map(|c| &c["usage"]).filter(|u| !u.is_null()).collect();
            assert_eq!(usage.len(), usize::from(include));
            assert!(usage.iter().all(|u| u["completion_tokens"] == 3 && u["prompt_tokens"] == 1));
        }
    }

    #[tokio::test]
    async fn embeddings_are_unit_vectors_of_the_text() {
        let eu = eu().await;
        let body = json!({"model": "tide-embed", "input": ["low tide", "low tide", "high"]});
        let (_, answer) = value(&eu, post("/v1/embeddings", &body)).await;
        let vectors: Vec<Vec<f64>> =
            (0..3).map(|i| serde_json::from_value(answer["data"][i]["embedding"].clone()).unwrap()).collect();
        assert_eq!(vectors[0], vectors[1]);
        assert_ne!(vectors[0], vectors[2]);
        assert!(vectors.iter().all(|v| (v.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-9));
        assert_eq!(answer["usage"]["prompt_tokens"], 5);
    }

    #[tokio::test]
    async fn what_is_wrong_is_refused() {
        let eu = eu().await;
        let models =
            Request::get("/v1/models").header("authorization", "Bearer k").body(Full::default()).unwrap();
        assert_eq!(value(&eu, models).await.1["data"][1]["id"], "tide-embed");
        let keyless = Request::get("/v1/models").body(Full::default()).unwrap();
        assert_eq!(value(&eu, keyless).await.0, 401);
        let unknown = json!({"model": "tide-huge", "messages": []});
        let (status, answer) = value(&eu, post("/v1/chat/completions", &unknown)).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
        assert_eq!(value(&eu, post("/v1/chat/completions", &json!(5))).await.0, 400);
        assert_eq!(value(&eu, post("/v2/nothing", &json!({}))).await.0, 404);
    }
}
