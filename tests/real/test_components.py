"""The components by themselves, with the client code that the gateway is tested with: a failure here is not the gateway's."""
import struct
import time
import urllib.request

from checks import ask_model, embed_texts, fetch_token, openai_client, s3_client, use_store
from doubles import Recorder
from process import eventually


def test_model_answers(t):
    llm = t.component("llm")
    ask_model(openai_client(llm.url + "/v1", llm.key), llm.model)
    embed_texts(openai_client(llm.embeddings_url + "/v1", llm.key), llm.model)


def test_store_keeps_objects(t):
    store = t.component("s3")
    client = s3_client(store.url, keys=(store.access_key, store.secret_key))
    client.create_bucket(Bucket="direct")
    use_store(client, "direct", "handbook/")


def test_issuer_gives_tokens(t):
    oidc = t.component("oidc")
    claims = fetch_token(oidc, groups="research")[1]
    assert claims["iss"] == oidc.url and claims["aud"] == oidc.audience and claims["groups"] == ["research"], claims
    with urllib.request.urlopen(oidc.jwks_url, timeout=5) as answer:
        assert b'"kid":"real-1"' in answer.read().replace(b" ", b"")


def test_collector_shows_spans(t):
    collector = t.component("otlp")
    name = f"probe-{time.time_ns()}"
    request = urllib.request.Request(collector.url + "/v1/traces", one_span(name), {"Content-Type": "application/x-protobuf"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 200
    eventually(lambda: name in collector.process.text(), "the collector logs the span")


def one_span(name):
    """An `ExportTraceServiceRequest` with one span, by hand: the field numbers of opentelemetry-proto."""
    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content
    now = time.time_ns()
    span = (field(1, b"\x01" * 16) + field(2, b"\x02" * 8) + field(5, name.encode())
            + b"\x39" + struct.pack("<Q", now - 1000) + b"\x41" + struct.pack("<Q", now))
    return field(1, field(2, field(2, span)))


def test_recorder_keeps_every_byte(t):
    recorder = Recorder()
    t.defer(recorder.close)
    body = b"x" * 70000
    with urllib.request.urlopen(urllib.request.Request(recorder.url + "/a?b=c", body), timeout=5) as answer:
        assert answer.read() == b'{"path": "/a?b=c", "bytes": 70000}'
    request, = recorder.requests
    assert request.body == body and request.line == "POST /a?b=c HTTP/1.1" and request.header("content-length") == ["70000"]
    assert recorder.bytes() == len(request.head) + 4 + len(body)
