"""HTTP/2 floods, from callers and from far sides: cut within a second, memory flat, and honest callers notice little.

Each flood says in a line what was seen; docs/security.md quotes them.
"""
import contextlib
import http.client
import json
import re
import ssl
import time
from itertools import chain, repeat

from harness import CA, SERVER, SERVER_KEY, chat_route, gateway_config, kind, refused, service_route
from honest import Honest, p99
from http2 import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, HELLO, PING, Flood, HostileServer, block, bomb, libraries, raw, send_flood,
)
from process import connections_to, eventually

COUNT = 20_000                # streams of a flood, if it is not cut before
CUT = 1.0                     # seconds
GROWTH = 64 << 20             # bytes of memory
LOG = 1 << 20                 # bytes of log
ROUNDS = 3                    # a busy machine delays honest answers too, so one round of three must hold
NOTICED = 0.25                # seconds; below this nobody says that honest callers suffer


# ---- floods of callers --------------------------------------------------------------------------------------------

def head(method="GET"):
    return block((":method", method), (":scheme", "https"), (":path", "/app/x"), (":authority", "localhost"))


def each_stream(then, flags=END_STREAM, method="GET"):
    """A request on one stream after the other, each with a frame that spoils it."""
    fields, streams = head(method), range(1, COUNT * 2, 2)
    return Flood(b"".join(raw(HEADERS, END_HEADERS | flags, stream, fields) + then(stream) for stream in streams))


def client_floods():
    """Name and flood of those that must be cut."""
    frame, get, post = libraries(), head(), head("POST")
    field = block(("x", "y" * 100))
    unended = raw(HEADERS, END_STREAM, 1, get)

    def window(increment):
        return lambda stream: frame.WindowUpdateFrame(stream, window_increment=increment).serialize()
    yield "rapid reset", each_stream(lambda stream: frame.RstStreamFrame(stream, error_code=8).serialize())
    yield "reset by WINDOW_UPDATE past 2^31-1", each_stream(window(2**31 - 1), 0, "POST")
    yield "reset by WINDOW_UPDATE of 0", each_stream(window(0), 0, "POST")
    yield "reset by DATA after the end", each_stream(lambda stream: frame.DataFrame(stream, b"x").serialize())
    yield "reset by HEADERS after the end", each_stream(lambda stream: raw(HEADERS, END_HEADERS | END_STREAM, stream, get))
    yield "reset by PRIORITY of 4 bytes", each_stream(lambda stream: raw(2, 0, stream, bytes(4)), 0, "POST")
    yield "CONTINUATION", Flood(unended, raw(CONTINUATION, 0, 1, field) * 1000)
    yield "empty CONTINUATION", Flood(unended, raw(CONTINUATION, 0, 1) * 1000)
    yield "header blocks that unpack to 16 MB", Flood(b"".join(
        raw(HEADERS, END_HEADERS | END_STREAM, stream, get + bomb(4000)) for stream in range(1, 2000, 2)))
    yield "empty DATA", Flood(raw(HEADERS, END_HEADERS, 1, post), raw(DATA, 0, 1) * 1000)
    yield "streams past the bound", Flood(b"".join(raw(HEADERS, END_HEADERS, stream, post) for stream in range(1, COUNT * 2, 2)))


def uncounted_floods():
    """Floods that the library answers or passes over frame by frame. It holds one answer at a time, so a sender who does not read is not read either."""
    frame, post = libraries(), raw(HEADERS, END_HEADERS, 1, head("POST"))
    yield "PING", Flood(b"", frame.PingFrame(0, opaque_data=b"tidegate").serialize() * 1000)
    yield "PING answers that nobody asked for", Flood(b"", raw(PING, ACK, 0, b"tidegate") * 1000)
    yield "SETTINGS", Flood(b"", frame.SettingsFrame(0, {1: 4096}).serialize() * 1000)
    yield "WINDOW_UPDATE of 1, connection", Flood(b"", frame.WindowUpdateFrame(0, window_increment=1).serialize() * 1000)
    yield "WINDOW_UPDATE of 1, stream", Flood(post, frame.WindowUpdateFrame(1, window_increment=1).serialize() * 1000)
    yield "PRIORITY", Flood(b"", frame.PriorityFrame(1, depends_on=3).serialize() * 1000)
    yield "unknown frames, small", Flood(b"", raw(0xbe, 0, 0, b"x") * 1000)
    yield "unknown frames, 16 KiB", Flood(b"", raw(0xbe, 0, 0, bytes(16384)) * 20)


class Watch:
    """What a gateway spends while something is done to it."""

    def __init__(self, gateway):
        self.gateway, self.process = gateway, gateway.process
        self.process.forget_peak()
        self.memory, self.log = self.process.memory(), self._log()

    def _log(self):
        return self.process.log.stat().st_size

    def check(self, name, said, growth=GROWTH):
        grown, logged = self.process.memory("VmHWM") - self.memory, self._log() - self.log
        print(f"     {name}: {said}; memory +{max(0, grown) / (1 << 20):.1f} MiB", flush=True)
        assert self.process.code is None, f"{name}: the gateway left with {self.process.code}"
        assert "panic" not in self.process.text(), f"{name}: a panic"
        assert grown < growth, f"{name}: {grown >> 20} MiB"
        assert logged < LOG, f"{name}: {logged} bytes of log"


def check_honest(honest, flooded):
    """Runs `flooded(honest)` until honest callers were served well enough in one round."""
    for _ in range(ROUNDS):
        flooded(honest)
        late = honest.late()
        calm = p99(late.pop("calm"))
        busy = p99(list(chain(*late.values())))
        print(f"     honest requests, 50 a second: p99 {busy * 1000:.0f} ms under floods, {calm * 1000:.0f} ms between them", flush=True)
        if busy <= max(2 * calm, NOTICED):
            return
    raise AssertionError(f"honest callers wait {busy:.3f} s at the 99th percentile, without floods {calm:.3f} s")


def test_floods_of_callers(t):
    gateway, _ = t.echo_gateway()
    cut, counted, floods = 0, 0, list(client_floods())
    uncounted = dict(uncounted_floods())
    floods += uncounted.items()

    def flooded(honest):
        nonlocal cut, counted
        for name, flood in floods:
            honest.under("calm", 30)
            watch, endings = Watch(gateway), []
            honest.under(name, 30, lambda: endings.append(send_flood(gateway, flood, 2 * CUT)))
            cut += len(endings)
            counted += len(endings) if name in uncounted else 0
            worst = max(ending.cut or 99 for ending in endings)
            words = sorted({str(said) for ending in endings if (said := ending.goaway())})
            watch.check(name, f"cut {len(endings)} times, after {worst * 1000:.0f} ms at most {' '.join(words)}")
            assert worst < CUT, f"{name}: not cut within {CUT} s"
    with Honest(gateway) as honest:
        check_honest(honest, flooded)
    eventually(lambda: sum(map(refused, gateway.records())) >= cut, "each cut is recorded", 10)
    own = sum(record.get("codes", {}).get("http2_flood", 0) + (record.get("code") == "http2_flood") for record in gateway.records())
    assert own == counted, f"those of frames that the library does not count have a code of their own: {own} of {counted}"


def test_a_flooder_who_does_not_read_is_let_go(t):
    gateway, _ = t.echo_gateway(changes={"listen.limits": {"idle_timeout": "1s"}})
    name, flood = next(uncounted_floods())
    watch = Watch(gateway)
    ending = send_flood(gateway, flood, 20, reads=False)
    assert ending.cut, f"still there after 20 s, {ending.sent} bytes"
    watch.check(f"{name}, answers not read", f"{ending.sent >> 10} KiB taken, closed after {ending.cut:.1f} s")


# ---- floods of far sides ------------------------------------------------------------------------------------------

QUESTION = json.dumps({"model": "m", "messages": []})
BOUND = 5.0                   # seconds until the caller has an answer; each wait for the far side is bounded by a tenth of that


class Far:
    """Answers of far sides as `HostileServer` wants them, out of functions that give the bytes for a stream."""

    def __init__(self):
        self.frame = libraries()
        self.ok = block((":status", "200"), ("content-type", "application/json"))
        self.early, self.field = block((":status", "103"), ("link", "</x>")), block(("x", "y" * 100))

    def head(self, id, flags=END_HEADERS):
        return raw(HEADERS, flags, id, self.ok)

    def reset(self, code):
        return lambda id: self.frame.RstStreamFrame(id, error_code=code).serialize()

    def goaway(self, last, code=0):
        return lambda _: self.frame.GoAwayFrame(0, last_stream_id=last, error_code=code).serialize()

    @staticmethod
    def continuation(fields, flags=0):
        return lambda id: raw(CONTINUATION, flags, id, fields)

    @staticmethod
    def once(*parts):
        return lambda id, _: [part(id) for part in parts]

    @staticmethod
    def endless(more, first=lambda _: b""):
        """`first`, then `more` without end."""
        return lambda id, _: chain(filter(None, [first(id)]), repeat(more(id) * 2000))


def bad_answers():
    """Name and answer of far sides that the gateway leaves."""
    far = Far()
    open_head = lambda id: far.head(id, 0)
    yield "silence", far.once()
    yield "what is no frame", far.once(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    yield "a head without end", far.endless(far.continuation(far.field), open_head)
    yield "a head of empty frames without end", far.endless(far.continuation(b""), open_head)
    yield "a head of 60 KiB", far.once(open_head, *[far.continuation(far.field * 150)] * 3, far.continuation(far.field * 150, END_HEADERS))
    yield "a head that unpacks to 16 MB", far.once(lambda id: raw(HEADERS, END_HEADERS | END_STREAM, id, far.ok + bomb(4000)))
    yield "trailers without end", far.endless(
        far.continuation(far.field), lambda id: far.head(id) + raw(DATA, 0, id, b"{") + raw(HEADERS, END_STREAM, id, far.field))
    yield "empty DATA without end", far.endless(lambda id: raw(DATA, 0, id), far.head)
    for name, code in ("INTERNAL_ERROR", 2), ("REFUSED_STREAM", 7), ("CANCEL", 8), ("ENHANCE_YOUR_CALM", 11):
        yield f"RST_STREAM {name}", far.once(far.reset(code))
    yield "PUSH_PROMISE", far.endless(lambda id: far.frame.PushPromiseFrame(id, promised_stream_id=2, data=far.ok, flags=["END_HEADERS"]).serialize())
    yield "GOAWAY that took nothing", far.once(far.goaway(0))
    yield "GOAWAY that took all, then silence", far.once(far.goaway(2**31 - 1))
    yield "GOAWAY ENHANCE_YOUR_CALM", far.once(far.goaway(0, 11))
    yield "GOAWAY that rises", far.once(far.goaway(1), far.goaway(2**31 - 1))
    yield "an answer on another stream", far.once(lambda id: far.head(id + 2))


def endless_answers():
    """Name and answer of far sides whose frames the library answers or passes over: these too are cut, before any clock ends the request."""
    far = Far()
    yield "1xx without end", far.endless(lambda id: raw(HEADERS, END_HEADERS, id, far.early))
    yield "SETTINGS without end", far.endless(lambda _: far.frame.SettingsFrame(0, {4: 65535}).serialize())
    yield "PING without end", far.endless(lambda _: far.frame.PingFrame(0, opaque_data=b"tidegate").serialize())
    yield "PING answers without end", far.endless(lambda _: raw(PING, ACK, 0, b"tidegate"))
    yield "unknown frames without end", far.endless(lambda id: raw(0xbe, 0, id, b"x" * 100))
    yield "WINDOW_UPDATE past 2^31-1", far.endless(lambda id: far.frame.WindowUpdateFrame(id, window_increment=2**31 - 1).serialize())
    yield "DATA past every window", far.endless(lambda id: raw(DATA, 0, id, b" " * 16), far.head)
    yield "RST_STREAM without end", far.endless(far.reset(8))
    yield "GOAWAY without end", far.endless(far.goaway(2**31 - 1))
    many = far.ok + block(*((f"x-{at}", "y") for at in range(140)))
    yield "DATA after a head that was refused", lambda id, _: chain([raw(HEADERS, END_HEADERS, id, many)], repeat(raw(DATA, 0, id, bytes(16384)) * 20))


def bad_greetings():
    """Name and `hello(connection)` of far sides with whom no request can go well."""
    frame = libraries()
    yield "no stream may be opened", lambda _: [frame.SettingsFrame(0, {3: 0}).serialize()]
    yield "no settings at all", lambda _: []
    yield "a window of nothing", lambda _: [frame.SettingsFrame(0, {4: 0}).serialize()]
    yield "GOAWAY at once", lambda _: [HELLO, frame.GoAwayFrame(0, last_stream_id=0).serialize()]


def far_gateway(t, server, **cluster):
    """A chat route to the hostile far side, and an honest service beside it."""
    honest = t.recorder()
    far = {"endpoints": [server.url], "models": ["m"], "timeouts": {"connect": "500ms", "first_byte": "500ms", "idle": "500ms"}, **cluster}
    return t.gateway(gateway_config([chat_route(identity="none", level="public", residency=["world"]), service_route()],
                                    services={"echo": {"endpoints": [honest.url]}}, clusters={"eu": far}), start=False)


def ask(gateway):
    """The code of the problem that a caller gets, or that an answer began and broke off; and how long that took."""
    began = time.monotonic()
    with contextlib.closing(gateway.connection()) as connection:
        connection.request("POST", "/v1/chat/completions", QUESTION, {"Content-Type": "application/json"})
        try:
            answer = connection.getresponse()
            body = answer.read()
        except (http.client.IncompleteRead, ConnectionError):        # RemoteDisconnected too: broken off before the head was on its way
            return "broken off", time.monotonic() - began
    took = time.monotonic() - began
    problem = json.loads(body)
    assert answer.status in (502, 504) and problem["status"] == answer.status, problem
    return problem["code"], took


def behave(server, gateway, answer=None, hello=None):
    server.behave(answer, hello)
    eventually(lambda: not connections_to(server.port), "the gateway has let go of the old connection")
    return Watch(gateway)


def flood_from_far(server, gateway, honest, name, answer=None, hello=None, bound=BOUND):
    """Asks the far side while it behaves so; checks that callers get their refusal in time and that nothing piles up."""
    watch, got, dialled = behave(server, gateway, answer, hello), [], server.connections
    honest.under(name, 20, lambda: got.append(ask(gateway)))
    codes, slowest, dialled = sorted({code for code, _ in got}), max(took for _, took in got), server.connections - dialled
    watch.check(name, f"{' or '.join(codes)} after {slowest:.2f} s at most; {len(got)} requests, {dialled} connections")
    assert slowest < bound, f"{name}: {slowest} s"
    assert dialled <= 3 * len(got), f"{name}: more connections than the attempts of all requests"


def test_far_sides_that_answer_badly(t):
    server = HostileServer()
    t.defer(server.close)
    gateway = far_gateway(t, server, http2="only")
    gateway.start()

    def flooded(honest):
        for name, answer in bad_answers():
            honest.under("calm", 10)
            flood_from_far(server, gateway, honest, name, answer)
        for name, hello in bad_greetings():
            flood_from_far(server, gateway, honest, name, hello=hello)
        behave(server, gateway)
    with Honest(gateway) as honest:
        check_honest(honest, flooded)
    outcomes = [record for record in gateway.records() if kind(record) == "outcome"]
    assert {record["ending"] for record in outcomes} > {"complete"}, "what broke off is recorded as such"


def test_far_sides_that_go_on_and_on(t):
    server = HostileServer()
    t.defer(server.close)
    gateway = far_gateway(t, server, http2="only", timeouts={"connect": "500ms", "first_byte": "20s", "idle": "20s"})
    gateway.start()

    def flooded(honest):
        for name, answer in endless_answers():
            honest.under("calm", 30)
            flood_from_far(server, gateway, honest, name, answer, bound=CUT)
            eventually(lambda: not connections_to(server.port), f"{name}: no connection goes on in the pool", CUT)
    with Honest(gateway) as honest:
        check_honest(honest, flooded)
    assert "a connection was cut" in gateway.process.text(), "the operator can see why"
    counted = re.search(r'^tidegate_upstream_endpoint_floods{.*tidegate_upstream="eu".*} (\d+)', gateway.admin("/metrics"), re.M)
    assert int(counted[1]) >= len(list(endless_answers())), counted[0]


def test_floods_of_a_far_side_over_tls(t):
    """The same by ALPN: one that is cut in the head, one within the answer, one of frames that the library does not count."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.set_alpn_protocols(["h2"])
    server = HostileServer(tls)
    t.defer(server.close)
    gateway = far_gateway(t, server, ca=CA, server_name="localhost")
    tls.load_cert_chain(gateway.folder / SERVER, gateway.folder / SERVER_KEY)
    gateway.start()
    floods, expected = dict(chain(bad_answers(), endless_answers())), {
        "a head without end": "upstream_reset", "empty DATA without end": "broken off", "PING without end": "upstream_reset"}
    for name, code in expected.items():
        watch = behave(server, gateway, floods[name])
        got, took = ask(gateway)
        watch.check(name + ", over TLS", f"{got} after {took:.2f} s")
        assert got == code and took < BOUND, (name, got, took)
