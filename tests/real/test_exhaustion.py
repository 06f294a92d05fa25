"""What runs out: connections, memory, file descriptors, a reader's patience. The gateway refuses or waits, never dies, and recovers by itself.

F13, F14, F15 and F17 of docs/security.md. `TIDEGATE_IDLE` sets how many idle connections F13 holds (1,000 if it does not; 10,000 was measured).
"""
import contextlib
import os
import resource
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from doubles import Bulk
from harness import chat_route, gateway_config, refused, service_route
from honest import Honest, p99
from http2 import END_HEADERS, END_STREAM, HEADERS, block, open_http2, raw
from process import Skip, eventually

IDLE = int(os.environ.get("TIDEGATE_IDLE", "1000"))
PER_CONNECTION = 24 << 10     # bytes of memory that an idle connection may cost
NOTICED = 0.25                # seconds; below this nobody says that honest callers suffer
MEMORY = 256 << 20            # bytes of F14
BODY = 32 << 20
WITHHELD = 4 << 20            # as large as a question to a model may be
HELD = 128 << 20              # the default of `gate.held_bodies`
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


def connect(gateway, seconds=30):
    plain = socket.create_connection(("127.0.0.1", gateway.port), seconds)
    try:
        return gateway.tls().wrap_socket(plain, server_hostname="localhost")
    except OSError:
        plain.close()
        raise


def connect_many(t, gateway, count):
    """So many TLS connections, closed with the test."""
    context = gateway.tls()

    def one(_):
        return context.wrap_socket(socket.create_connection(("127.0.0.1", gateway.port), 30), server_hostname="localhost")
    with ThreadPoolExecutor(8) as pool:
        connections = list(pool.map(one, range(count)))
    for connection in connections:
        t.defer(connection.close)
    return connections


def bulk(t, size=BODY):
    upstream = Bulk(size)
    t.defer(upstream.close)
    return upstream


def routes(upstream):
    return gateway_config([service_route(max_body="64MiB")], services={"echo": {"endpoints": [upstream.url]}},
                          changes={"listen.limits": {"max_connections_per_ip": 0}})


def test_idle_connections(t):
    """F13. The connections that are left over are for the honest, the rest is closed at once and recorded."""
    need = IDLE + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < need:
        raise Skip(f"{need} file descriptors are needed, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, need), hard))
    gateway, _ = t.echo_gateway(changes={"listen.limits": {
        "max_connections": IDLE + 2, "max_connections_per_ip": 0, "header_timeout": "10m", "idle_timeout": "10m"}})
    with Honest(gateway) as honest:
        honest.under("before", 100)
        before, began = gateway.process.memory(), time.monotonic()
        connections = connect_many(t, gateway, IDLE)
        took, grown = time.monotonic() - began, gateway.process.memory() - before
        alone, beside = p99(honest.late()["before"]), []
        while not beside or (beside[-1] > max(1.5 * alone, NOTICED) and len(beside) < 3):        # a busy machine delays them too
            honest.under("beside", 100)
            beside.append(p99(honest.late()["beside"]))
        t.defer(connect(gateway).close)
        shed = sum(not can_connect(gateway) for _ in range(20))
        print(f"     {IDLE} connections in {took:.1f} s: memory +{grown / (1 << 20):.1f} MiB, {grown / IDLE / 1024:.1f} KiB each; honest p99 "
              f"{beside[-1] * 1000:.0f} ms beside them, {alone * 1000:.0f} ms before; {shed} of 20 more shed", flush=True)
        assert grown <= PER_CONNECTION * IDLE, grown
        assert beside[-1] <= max(1.5 * alone, NOTICED), (beside, alone)
        assert shed == 20, shed
        eventually(lambda: sum(map(refused, gateway.records())) >= 20, "what was shed is recorded", 10)
        for connection in connections[:10]:
            connection.close()
        eventually(lambda: answers(gateway), "a place that was left can be taken", 10)


def can_connect(gateway):
    try:
        connect(gateway).close()
        return True
    except OSError:
        return False


def memory_group(t, bytes):
    """A cgroup (version 1) with a bound on memory. What is in it is killed when it needs more."""
    group = MEMORY_GROUPS / f"tidegate-{os.getpid()}"
    try:
        group.mkdir()
        t.defer(group.rmdir)
        (group / "memory.limit_in_bytes").write_text(str(bytes))
    except OSError as error:
        raise Skip(f"no memory group can be made: {error}") from None
    return group


def test_large_bodies_and_slow_readers_in_256_mib(t):
    """F14. A hundred uploads that nobody takes and fifty downloads that nobody reads wait in the sockets, not in the gateway's memory."""
    group, upstream = memory_group(t, MEMORY), bulk(t)
    gateway = t.gateway(routes(upstream))
    t.defer(gateway.process.kill)          # nothing here is worth the wait for a drain
    (group / "cgroup.procs").write_text(str(gateway.process.pid))
    before = gateway.process.memory()
    uploads, downloads = connect_many(t, gateway, 100), connect_many(t, gateway, 50)
    for connection in uploads:
        connection.sendall(b"POST /app/up HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % BODY)
        connection.setblocking(False)
    for connection in downloads:
        connection.sendall(b"GET /app/down HTTP/1.1\r\nHost: localhost\r\n\r\n")
    block, taken, until = b"x" * 65536, 0, time.monotonic() + 6
    while time.monotonic() < until:
        for connection in uploads:
            with contextlib.suppress(ssl.SSLWantWriteError, BlockingIOError):
                taken += connection.send(block)
    most, grown = int((group / "memory.max_usage_in_bytes").read_text()), gateway.process.memory("VmHWM") - before
    print(f"     100 uploads of 32 MiB, 50 downloads: {taken >> 20} MiB came in, {upstream.sent >> 20} MiB out of the far side; memory "
          f"+{grown >> 20} MiB, the group at most {most >> 20} MiB", flush=True)
    assert gateway.process.code is None, "the gateway was killed"
    assert taken > 100 << 20, f"only {taken} bytes came in: nothing was tried"
    assert grown < MEMORY // 2, grown
    assert gateway.request("GET", "/app/x")[0] == 200


def test_withheld_bodies_in_256_mib(t):
    """F14. A hundred bodies that are read whole, and never become whole, share one bound; who asks little is answered beside them."""
    group, upstream = memory_group(t, MEMORY), bulk(t)
    upstream.go.set()
    gateway = t.gateway(gateway_config([chat_route(identity="none")], {"eu": {"endpoints": [upstream.url], "models": ["m"]}},
                                       changes={"listen.limits": {"max_connections_per_ip": 0}}))
    t.defer(gateway.process.kill)
    (group / "cgroup.procs").write_text(str(gateway.process.pid))
    body = b'{"model": "m", "messages": [], "x": "'.ljust(WITHHELD - 1, b"x")
    left = {connection: memoryview(body) for connection in connect_many(t, gateway, 100)}
    for connection in left:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: %d\r\n\r\n" % WITHHELD)
        connection.setblocking(False)

    def ask():
        assert gateway.process.code is None, "the gateway was killed"
        return gateway.request("POST", "/v1/chat/completions", '{"model": "m", "messages": []}', {"Content-Type": "application/json"})[0]
    beside, until = [], time.monotonic() + 60
    while any(left.values()) and time.monotonic() < until:
        for connection, rest in left.items():
            try:
                left[connection] = rest[connection.send(rest[:65536]) if rest else 0:]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                pass
            except OSError:
                left[connection] = memoryview(b"")        # refused
        if len(beside) < 20:
            beside.append(ask())
    beside += [ask() for _ in range(20)]
    held = next(int(line.rsplit(" ", 1)[1]) for line in gateway.admin("/metrics").splitlines() if line.startswith("tidegate_held_bodies_bytes"))
    eventually(lambda: sum(map(refused, gateway.records())) >= 100 - HELD // WITHHELD, "those without room are refused and recorded", 10)
    most = int((group / "memory.max_usage_in_bytes").read_text())
    print(f"     100 bodies of 4 MiB without their last byte: {held >> 20} MiB held, {sum(map(refused, gateway.records()))} refused, the group at most "
          f"{most >> 20} MiB; {len(beside)} small requests beside them answered", flush=True)
    assert not any(left.values()), "they were not sent in a minute: nothing was tried"
    assert HELD // 2 < held <= HELD, held
    assert set(beside) == {200}, beside
    assert gateway.process.code is None, "the gateway was killed"


def test_no_file_descriptors(t):
    """F15. What cannot be accepted waits; the processor does not spin, and all is well once there are descriptors again."""
    gateway, _ = t.echo_gateway(changes={"listen.limits": {"max_connections_per_ip": 0, "handshake_timeout": "30s"}})
    assert gateway.request("GET", "/app/x")[0] == 200
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (256, 256))
    held = [socket.create_connection(("127.0.0.1", gateway.port), 10) for _ in range(400)]
    eventually(lambda: "accept failed" in gateway.log(), "the descriptors run out", 10)
    busy, began, logged = gateway.process.cpu(), time.monotonic(), len(gateway.log())
    eventually(lambda: time.monotonic() > began + 2, "two seconds", 5)
    share = (gateway.process.cpu() - busy) / (time.monotonic() - began)
    lines = gateway.log()[logged:].count("\n")
    for connection in held:
        connection.close()
    began = time.monotonic()
    eventually(lambda: answers(gateway), "it serves again", 10)
    print(f"     400 connections for 256 descriptors: {share * 100:.1f} % of a core, {lines} lines of log in 2 s; "
          f"served again after {time.monotonic() - began:.1f} s", flush=True)
    assert share < 0.20, share
    assert lines < 50, lines


def answers(gateway):
    try:
        return gateway.request("GET", "/app/x")[0] == 200
    except OSError:
        return False


def test_slow_readers(t):
    """F17. Of 50 MB that a reader takes at a trickle, the gateway holds little, over HTTP/1.1 and over HTTP/2."""
    upstream = bulk(t, 50_000_000)
    gateway = t.gateway(routes(upstream))
    t.defer(gateway.process.kill)
    before, readers = gateway.process.memory(), []
    for _ in range(20):
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        plain.connect(("127.0.0.1", gateway.port))
        readers.append(gateway.tls().wrap_socket(plain, server_hostname="localhost"))
        t.defer(readers[-1].close)
        readers[-1].sendall(b"GET /app/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    read = sum(len(reader.recv(4096)) for reader in readers for _ in range(8))
    sent = stands(upstream)
    first = gateway.process.memory("VmHWM") - before
    streams = open_http2(gateway, {4: 1024})
    t.defer(streams.close)
    fields = block((":method", "GET"), (":scheme", "https"), (":path", "/app/x"), (":authority", "localhost"))
    streams.sendall(b"".join(raw(HEADERS, END_HEADERS | END_STREAM, number, fields) for number in range(1, 100, 2)))
    more = stands(upstream, sent) - sent
    second = gateway.process.memory("VmHWM") - before - first
    print(f"     20 readers over HTTP/1.1 took {read >> 10} KiB: memory +{first >> 10} KiB, {sent >> 20} MiB out of the far side; 50 streams of one HTTP/2 "
          f"connection with windows of 1 KiB: +{max(second, 0) >> 10} KiB, {more >> 20} MiB", flush=True)
    assert sent < 20 * 50_000_000 and more < 50 * 50_000_000, "nothing was held back"
    assert first < 20 << 20 and second < 50 << 20, (first, second)
    whole = read // 20
    while data := readers[0].recv(65536):
        whole += len(data)
    assert whole > 50_000_000, f"the reader that went on got {whole} bytes"


def stands(upstream, above=0):
    """How much the far side has sent once it is more than `above` and stands still."""
    seen = [0]

    def still():
        seen.append(upstream.sent)
        return len(seen) > 8 and above < seen[-1] == seen[-8]
    eventually(still, "the far side is held back", 30)
    return seen[-1]
