"""HTTP/2 frame by frame, as no honest peer speaks it: a client that floods a server, and a server that floods its clients.

hyperframe writes the frames and hpack the header blocks; neither asks whether what they write makes sense, which is the point.
"""
import contextlib
import functools
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass

import components
from harness import COMPONENTS

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@functools.cache
def libraries():
    """Puts hyperframe and hpack on the path and gives hyperframe's frames."""
    folder = str(components.install("http2", COMPONENTS))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from hyperframe import frame
    return frame


def raw(kind, flags, stream, payload=b""):
    """A frame that hyperframe would not write."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def block(*fields):
    """A header block that leaves the dynamic table alone, so that it may be sent any number of times."""
    libraries()
    from hpack import Encoder
    from hpack.struct import NeverIndexedHeaderTuple
    return Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in fields], huffman=False)


def bomb(references):
    """A header block that puts 4,000 bytes into the dynamic table once and then asks for them again and again, a byte a time."""
    literal = b"\x40\x01x" + b"\x7f" + bytes([0x80 | (3873 & 0x7f), 3873 >> 7]) + b"y" * 4000       # x: yyy…, indexed
    return literal + b"\xbe" * references                                                         # entry 62, the newest


def frames_of(data):
    """(kind, flags, stream, payload) of each whole frame in the bytes."""
    at = 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at:at + 3], "big")
        if at + 9 + size > len(data):
            return
        kind, flags, stream = struct.unpack(">BBI", data[at + 3:at + 9])
        yield kind, flags, stream & 0x7fffffff, data[at + 9:at + 9 + size]
        at += 9 + size


# ---- the client that floods ---------------------------------------------------------------------------------------

@dataclass
class Flood:
    """`first` is sent once, then `more` again and again."""
    first: bytes
    more: bytes = b""


@dataclass
class Ending:
    """How a flood ended: seconds until the connection was closed (None: it was not), bytes sent, and what came back."""
    cut: float
    sent: int
    received: bytes

    def goaway(self):
        """Why the gateway says that it closes, or None: a reset may overtake the GOAWAY."""
        for kind, _, _, payload in frames_of(self.received):
            if kind == GOAWAY and payload[4:8] != bytes(4):
                code = int.from_bytes(payload[4:8], "big")
                return payload[8:].decode("latin-1") or {1: "PROTOCOL_ERROR", 3: "FLOW_CONTROL_ERROR", 6: "FRAME_SIZE_ERROR"}.get(code, str(code))
        return None


def open_http2(gateway, settings=None):
    """A connection on which the preface and our settings, by number, have been sent."""
    plain = socket.create_connection(("127.0.0.1", gateway.port), 10)
    connection = gateway.tls(protocols=("h2",)).wrap_socket(plain, server_hostname="localhost")
    assert connection.selected_alpn_protocol() == "h2"
    connection.sendall(PREFACE + libraries().SettingsFrame(0, settings or {}).serialize())
    return connection


def send_flood(gateway, flood, seconds, reads=True):
    """Floods until the gateway closes or the time is over. Without `reads` nothing that comes back is taken."""
    with open_http2(gateway) as connection:
        connection.setblocking(False)
        began, sent, received, queue = time.monotonic(), 0, bytearray(), memoryview(flood.first + flood.more)
        with contextlib.suppress(_Closed):
            while (left := began + seconds - time.monotonic()) > 0:
                queue = queue or memoryview(flood.more)
                select.select([connection] if reads else [], [connection] if queue else [], [], min(left, 0.1))
                count = _push(connection, queue) if queue else 0
                sent, queue = sent + count, queue[count:]
                if reads:
                    _pull(connection, received)
            return Ending(None, sent, bytes(received))
        return Ending(time.monotonic() - began, sent, bytes(received))


class _Closed(Exception):
    """The other side has closed the connection."""


def _push(connection, data):
    """Sends what the socket takes now, and says how many bytes that was."""
    try:
        return connection.send(data[:65536])
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return 0
    except OSError:
        raise _Closed from None


def _pull(connection, received, keep=4 << 20):
    """Takes what is there now; of all that came the first bytes are kept."""
    try:
        for _ in range(16):
            data = connection.recv(65536)
            if not data:
                raise _Closed
            received += data[:max(0, keep - len(received))]
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return
    except OSError:
        raise _Closed from None


# ---- the server that floods ---------------------------------------------------------------------------------------

HELLO = raw(SETTINGS, 0, 0) + raw(SETTINGS, ACK, 0)        # our settings, and thanks for theirs


class HostileServer:
    """An HTTP/2 server, in clear or with `tls`. `answer(stream, connection)` gives what is sent for each request, piece by piece, until the
    client has had enough; `hello(connection)` what is sent before any. It counts connections, requests, connections that the client
    ended, and bytes sent."""

    def __init__(self, tls=None):
        self._tls, self._era = tls, 0
        self.behave()
        self.connections = self.requests = self.cut = self.sent = 0
        self._closed, self._socket = False, socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._socket.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._closed, self._era = True, self._era + 1
        self._socket.close()

    def behave(self, answer=None, hello=None):
        """Ends all connections; from now on it behaves like this."""
        self._answer, self._hello = answer or (lambda *_: []), hello or (lambda _: [HELLO])
        self._era += 1

    def _accept(self):
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection, number):
        """One thread reads and writes, because a TLS connection does not bear two."""
        with contextlib.suppress(OSError):
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            connection.setblocking(False)
            with connection, contextlib.suppress(_Closed):
                self._talk(connection, number)
        self.cut += 1

    def _talk(self, connection, number):
        era, got, queue, sources = self._era, bytearray(), memoryview(b""), deque([iter(self._hello(number))])
        while self._era == era:
            while not queue and sources:
                queue = memoryview(next(sources[0], b""))
                if not queue:
                    sources.popleft()
            select.select([connection], [connection] if queue else [], [], 0.1)
            _pull(connection, got)
            for stream in _new_streams(got):
                self.requests += 1
                sources.append(iter(self._answer(stream, number)))
            if queue:
                count = _push(connection, queue)
                queue, self.sent = queue[count:], self.sent + count


def _new_streams(got):
    """Takes the whole frames off what came; gives the streams that a HEADERS frame opened."""
    if got.startswith(PREFACE):
        del got[:len(PREFACE)]
    frames = list(frames_of(got))
    del got[:sum(9 + len(payload) for *_, payload in frames)]
    return [stream for kind, _, stream, _ in frames if kind == HEADERS]
