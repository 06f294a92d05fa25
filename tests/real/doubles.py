"""Test doubles on loopback: an upstream that keeps every byte it gets, and an issuer of tokens. They say what they are."""
import base64
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Received:
    """One whole request as it came in: the head's bytes, the body after framing, and the connection it came on."""
    head: bytes
    body: bytes
    connection: int

    @property
    def line(self):
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def path(self):
        return self.line.split(" ")[1]

    def header(self, name):
        return [line.split(b":", 1)[1].strip().decode("latin-1") for line in self.head.split(b"\r\n")[1:]
                if line.split(b":", 1)[0].lower() == name.lower().encode()]


@dataclass
class Script:
    """An answer in parts: after each part but the last the recorder waits for `go` to be released once."""
    parts: list
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class Recorder:
    """An HTTP/1.1 upstream, with `tls` (a server's context) over TLS. `raw` holds every byte ever received, `requests` each
    complete request."""

    def __init__(self, tls=None):
        self._tls = tls
        self.requests, self.raw, self.scripts = [], {}, {}
        self._lock, self._closed = threading.Lock(), False
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def bytes(self):
        """How many bytes all connections together have brought."""
        with self._lock:
            return sum(len(b) for b in self.raw.values())

    def paths(self):
        with self._lock:
            return [r.path for r in self.requests]

    def close(self):
        self._closed = True
        self._socket.close()

    def _accept(self):
        number = 0
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            number += 1
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection, number):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                return
        with connection:
            reader = _Reader(connection, lambda data: self._keep(number, data))
            try:
                while (request := reader.request(number)) is not None:
                    with self._lock:
                        self.requests.append(request)
                    self._answer(connection, request)
            except (OSError, ValueError):
                return

    def _keep(self, number, data):
        with self._lock:
            self.raw.setdefault(number, bytearray()).extend(data)

    def _answer(self, connection, request):
        script = self.scripts.get(request.path)
        if script is None:
            body = json.dumps({"path": request.path, "bytes": len(request.body)}).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, part in enumerate(script.parts):
            if number:
                script.go.acquire(timeout=60)
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        connection.sendall(b"0\r\n\r\n")


class _Reader:
    def __init__(self, connection, keep):
        self._connection, self._keep, self._buffer = connection, keep, bytearray()

    def _more(self):
        data = self._connection.recv(65536)
        if not data:
            raise ValueError("the peer closed")
        self._keep(data)
        self._buffer += data

    def _until(self, mark):
        while mark not in self._buffer:
            self._more()
        return self._take(self._buffer.index(mark), len(mark))

    def _exactly(self, count):
        while len(self._buffer) < count:
            self._more()
        return self._take(count)

    def _take(self, count, skip=0):
        found = bytes(self._buffer[:count])
        del self._buffer[:count + skip]
        return found

    def head(self):
        return self._until(b"\r\n\r\n")

    def skip(self, count):
        """Takes bytes and forgets them."""
        while count > len(self._buffer):
            count -= len(self._buffer)
            self._buffer.clear()
            self._more()
        del self._buffer[:count]

    def request(self, number):
        head = self.head()
        if re.search(rb"(?im)^transfer-encoding:\s*chunked\s*$", head):
            body = bytearray()
            while size := int(self._until(b"\r\n").split(b";")[0], 16):
                body += self._exactly(size)
                self._exactly(2)
            while self._until(b"\r\n"):        # trailers
                pass
        else:
            length = re.search(rb"(?im)^content-length:\s*(\d+)\s*$", head)
            body = self._exactly(int(length[1])) if length else b""
        return Received(head, bytes(body), number)


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Makes keys and tokens (RS256). Needs the `cryptography` package."""
    issuer, audience = "https://issuer.tidegate.test", "https://tidegate.test"

    def __init__(self):
        from cryptography.hazmat.primitives.asymmetric import rsa
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwks(self):
        numbers = self._key.public_key().public_numbers()
        modulus = numbers.n.to_bytes(256, "big")
        return {"keys": [{"kty": "RSA", "kid": "test-1", "use": "sig", "alg": "RS256", "n": b64(modulus), "e": "AQAB"}]}

    def token(self, subject="ada", groups=("research",), seconds=300, **claims):
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding
        now = int(time.time())
        payload = {"iss": self.issuer, "aud": self.audience, "sub": subject, "groups": list(groups),
                   "iat": now, "nbf": now - 5, "exp": now + seconds, **claims}
        header = {"alg": "RS256", "typ": "JWT", "kid": "test-1"}
        signed = ".".join(b64(json.dumps(part).encode()) for part in (header, payload))
        return f"{signed}.{b64(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


class Bulk:
    """An HTTP/1.1 upstream that answers each GET with `size` bytes as fast as they are taken, and reads uploads only once `go` is set."""

    def __init__(self, size):
        self._size, self._block, self._closed, self.go = size, b"tide" * 16384, False, threading.Event()
        self.sent, self.got, self._lock = 0, 0, threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._closed = True
        self.go.set()
        self._socket.close()

    def _accept(self):
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            try:
                reader = _Reader(connection, self._count)
                while True:
                    head = reader.head()
                    if length := re.search(rb"(?im)^content-length:\s*(\d+)\s*$", head):
                        self.go.wait()
                        reader.skip(int(length[1]))
                    if head.startswith(b"GET "):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._size)
                        self._pour(connection)
                    else:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except (OSError, ValueError):
                return

    def _count(self, data):
        with self._lock:
            self.got += len(data)

    def _pour(self, connection):
        left = self._size
        while left:
            count = connection.send(self._block[:left])
            left -= count
            with self._lock:
                self.sent += count
