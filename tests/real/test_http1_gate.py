"""The HTTP/1.1 gate by raw bytes: what is ambiguous is refused before anything is decided, and no second request rides along.

For each row: the status, nothing at the upstream, the connection closed, one record. The route in front asks nobody who they
are and its policy permits everything, so the gate is all that stands between these bytes and the upstream.
"""
import contextlib
import json
import re
import socket
from dataclasses import dataclass

from harness import chat_route, gateway_config, refused, service_route
from process import eventually

RIDER = b"GET /app/rider HTTP/1.1\r\nHost: localhost\r\n\r\n"
HOST = b"Host: localhost\r\n"


@dataclass
class Row:
    """`closes`: the connection must be closed; else it may stay usable for the next request."""
    name: str
    bytes: bytes
    statuses: tuple = (400,)
    closes: bool = True


def get(target, headers=HOST, version=b"1.1", method=b"GET"):
    return b"%s %s HTTP/%s\r\n%s\r\n" % (method, target, version, headers)


def post(headers, body, target=b"/app/x", version=b"1.1"):
    return b"POST %s HTTP/%s\r\n%s%s\r\n%s" % (target, version, HOST, headers, body)


def path(name, target):
    return Row(f"path {name}", get(target), closes=False)


CHUNKED = b"Transfer-Encoding: chunked\r\n"

# Several of these a common HTTP library would repair (equal lengths, both framings, a bare LF); here they end the connection.
REFUSED = [
    Row("equal content lengths", post(b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc")),
    Row("different content lengths", post(b"Content-Length: 2\r\nContent-Length: 3\r\n", b"abc")),
    Row("signed content length", post(b"Content-Length: +3\r\n", b"abc")),
    Row("content length and chunked", post(b"Content-Length: 3\r\n" + CHUNKED, b"3\r\nabc\r\n0\r\n\r\n")),
    Row("transfer coding xchunked", post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n")),
    Row("chunked is not last", post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n")),
    Row("chunked in HTTP/1.0", post(CHUNKED, b"0\r\n\r\n", version=b"1.0")),
    Row("bare LF ends a header", get(b"/app/x", b"Host: localhost\nX-A: b\r\n")),
    Row("bare LF ends the head", b"GET /app/x HTTP/1.1\r\nHost: localhost\n\n"),
    Row("bare CR in a header", get(b"/app/x", HOST + b"X-A: a\rb\r\n")),
    Row("space before the colon", get(b"/app/x", HOST + b"X-A : b\r\n")),
    Row("folded header", get(b"/app/x", HOST + b"X-A: a\r\n b\r\n")),
    Row("no host", get(b"/app/x", b"")),
    Row("two hosts", get(b"/app/x", HOST + b"Host: other\r\n")),
    Row("two equal hosts", get(b"/app/x", HOST + HOST)),
    Row("host with path characters", get(b"/app/x", b"Host: loc/al?host#x\r\n")),
    Row("absolute form differs from host", get(b"http://other/app/x")),
    Row("connect", get(b"localhost:443", method=b"CONNECT"), (405,)),
    Row("trace", get(b"/app/x", method=b"TRACE"), (405,)),
    Row("upgrade", get(b"/app/x", HOST + b"Connection: upgrade\r\nUpgrade: foo\r\n")),
    path("double slash", b"/app//x"),
    path("leading double slash", b"//app/x"),
    path("dot", b"/app/./x"),
    path("dot dot", b"/app/../app/x"),
    path("encoded dot dot", b"/app/%2e%2e/app/x"),
    path("half-encoded dot dot", b"/app/.%2E/app/x"),
    path("encoded slash", b"/app/a%2fb"),
    path("encoded backslash", b"/app/a%5cb"),
    path("backslash", b"/app/a\\b"),
    path("encoded nul", b"/app/a%00b"),
    path("fragment", b"/app/x#frag"),
    path("bad escape", b"/app/a%zz"),
    Row("path raw 0xff", get(b"/app/a\xffb")),
    Row("underscore header", get(b"/app/x", HOST + b"X_User: root\r\n"), closes=False),
    Row("a header of 100 KiB", get(b"/app/x", HOST + b"X-A: " + b"a" * 102400 + b"\r\n"), (431,)),
    Row("200 headers", get(b"/app/x", HOST + b"".join(b"X-%d: a\r\n" % i for i in range(200))), (431,)),
    Row("a target of 20 KiB", get(b"/app/" + b"a" * 20480), (414, 400, 431)),
]

# These fail inside a body. The chat route reads its body whole before anything is decided, so nothing leaves at all.
QUESTION = json.dumps({"model": "m", "messages": []}).encode()


def chunks(size=b"%x" % len(QUESTION), after_size=b"\r\n", after_data=b"\r\n", end=b"0\r\n\r\n"):
    body = size + after_size + QUESTION + after_data + end
    return post(b"Content-Type: application/json\r\n" + CHUNKED, body, b"/v1/chat/completions")


BAD_BODIES = [
    Row("chunk extension with a bare LF", chunks(after_size=b";a\n\r\n")),
    Row("chunk size 0x", chunks(size=b"0x3")),
    Row("chunk data ends with a bare LF", chunks(after_data=b"\n")),
    Row("chunk size overflows", chunks(size=b"fffffffffffffffff")),
    Row("chunk size is negative", chunks(size=b"-1")),
]

def talk(gateway, data, until_closed=True):
    """Sends bytes; gives the first status, whether the connection was closed within a few seconds, and the answer.
    Without `until_closed` one whole answer is enough."""
    answer, closed = b"", False
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as plain:
        with gateway.tls().wrap_socket(plain, server_hostname="localhost") as connection:
            with contextlib.suppress(OSError):        # it may close before it has read everything
                connection.sendall(data)
            connection.settimeout(3)
            with contextlib.suppress(TimeoutError):
                while until_closed or not is_whole(answer):
                    try:
                        more = connection.recv(65536)
                    except ConnectionError:
                        more = b""
                    if not more:
                        closed = True
                        break
                    answer += more
    found = re.match(rb"HTTP/1\.1 (\d+) ", answer)
    return (int(found[1]) if found else None), closed, answer


def is_whole(answer):
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length: *(\d+)\r?$", head)
    return bool(end and length) and len(body) >= int(length[1])


def gate(t):
    upstream = t.recorder()
    routes = [service_route(), chat_route(identity="none", level="public", residency=["world"])]
    config = gateway_config(routes, services={"echo": {"endpoints": [upstream.url]}},
                            clusters={"eu": {"endpoints": [upstream.url], "models": ["m"]}})
    return t.gateway(config), upstream


def refusals(gateway):
    return sum(map(refused, gateway.records()))


def check_refused(t, rows):
    gateway, upstream = gate(t)
    assert talk(gateway, get(b"/app/honest", HOST + b"Connection: close\r\n"))[0] == 200
    seen, wrong = upstream.bytes(), []
    assert upstream.paths() == ["/app/honest"]
    for row in rows:
        before = refusals(gateway)
        status, closed, answer = talk(gateway, row.bytes + (RIDER if row.closes else b""), row.closes)
        if status not in row.statuses:
            wrong.append(f"{row.name}: status {status}, not {row.statuses}: {answer[:80]}")
        if row.closes and not closed:
            wrong.append(f"{row.name}: the connection stays open")
        if upstream.bytes() != seen:
            wrong.append(f"{row.name}: the upstream saw {upstream.paths()[-1:]}")
            seen = upstream.bytes()
        try:
            # Where refusals are many they are counted together, once a second.
            eventually(lambda: refusals(gateway) > before, "recorded", 4)
            if refusals(gateway) != before + 1:
                wrong.append(f"{row.name}: {refusals(gateway) - before} records")
        except AssertionError:
            wrong.append(f"{row.name}: no record")
    assert not wrong, "\n" + "\n".join(wrong)


def test_refused_heads(t):
    check_refused(t, REFUSED)


def test_refused_bodies(t):
    check_refused(t, BAD_BODIES)


def test_a_bad_chunk_never_completes_upstream(t):
    """A streamed body may have begun to cross when it turns out broken; the upstream must never see it end."""
    gateway, upstream = gate(t)
    for row in BAD_BODIES:
        talk(gateway, row.bytes.replace(b"/v1/chat/completions", b"/app/stream") + RIDER)
    assert upstream.paths() == [], upstream.paths()


def test_a_refusal_with_a_body_left_unread_carries_no_rider(t):
    """Denied before the body is read: what follows on the wire is body, or nothing, but never a request."""
    gateway, upstream = gate(t)
    hidden = b"GET /app/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for size in (len(hidden), 1 << 20):
        body = hidden.ljust(size, b"x")
        status, _, _ = talk(gateway, post(b"Content-Length: %d\r\n" % size, body, b"/nowhere"), until_closed=False)
        assert status == 404, status
    assert upstream.bytes() == 0, upstream.paths()


def test_a_refusal_is_a_problem_document(t):
    gateway, _ = gate(t)
    status, headers, body = gateway.request("GET", "/nowhere")
    assert status == 404 and headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["status"] == 404 and problem["code"] and problem["record"], problem
