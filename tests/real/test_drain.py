"""SIGTERM: no new connections, the streams that run may end, exit 0."""
import signal

from doubles import Script
from harness import kind
from process import accepts, eventually


def test_a_stream_ends_well_and_the_exit_is_clean(t):
    gateway, upstream = t.echo_gateway()
    script = upstream.scripts["/app/stream"] = Script([b"data: one\n\n", b"data: two\n\n"])
    connection = gateway.connection()
    connection.request("GET", "/app/stream")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.readline() == b"data: one\n"
    gateway.process.signal(signal.SIGTERM)
    eventually(lambda: not accepts(gateway.port), "it stops accepting", 5)
    assert gateway.process.code is None, "it left while a stream was running"
    script.go.release()
    assert b"data: two" in answer.read()
    assert gateway.process.wait(15) == 0
    outcomes = [record for record in gateway.records() if kind(record) == "outcome"]
    assert len(outcomes) == 1 and outcomes[0]["ending"] == "complete", outcomes


def test_an_idle_gateway_leaves_at_once(t):
    gateway, _ = t.echo_gateway()
    assert gateway.request("GET", "/app/x")[0] == 200
    gateway.process.signal(signal.SIGTERM)
    assert gateway.process.wait(5) == 0
