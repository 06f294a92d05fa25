"""`benches/peers/tidegate.sh`: in each mode it makes a configuration that `check` accepts, and the gateway does what is measured."""
import http.client
import json
import ssl
import subprocess

from harness import CA, ROOT, SERVER, SERVER_KEY, binary
from process import Process, eventually, free_port

SCRIPT = ROOT / "benches" / "peers" / "tidegate.sh"
QUESTION = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "hello"}]})


class Peer:
    def __init__(self, t, mode, upstream_name="upstream.test"):
        self.folder, self.port = t.folder / "peer", free_port()
        self.folder.mkdir()
        subprocess.run([binary(), "certs", "init", self.folder / "certs", "--server-name", "localhost", "--server-name", "upstream.test"],
                       check=True, capture_output=True, timeout=60)
        upstream_tls = None
        if mode != "ai":        # that one's model server speaks plain HTTP
            upstream_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            upstream_tls.load_cert_chain(self.folder / SERVER, self.folder / SERVER_KEY)
        self.upstream = t.recorder(upstream_tls)
        self.issuer, _, secrets = t.issuer()
        jwks = self.folder / "jwks.json"
        jwks.write_text(secrets["keys/jwks.json"])
        self.process = Process(["bash", SCRIPT], self.folder / "log", cwd=self.folder, env={
            "GATEWAY_BIN": str(binary()), "PB_MODE": mode, "PB_HOST": "127.0.0.1", "PB_LISTEN": str(self.port), "PB_THREADS": "1",
            "PB_CERT": str(self.folder / SERVER), "PB_KEY": str(self.folder / SERVER_KEY), "PB_CA": str(self.folder / CA),
            "PB_UPSTREAM_PORT": str(self.upstream.port), "PB_UPSTREAM_TLS": "1" if upstream_tls else "0",
            "PB_UPSTREAM_SNI": upstream_name, "PB_JWKS": str(jwks), "PB_ISS": self.issuer.issuer, "PB_AUD": self.issuer.audience,
            "PB_DIR": str(self.folder), "PB_SINK_CPU": "0",
        })
        t.defer(self.process.stop)
        self.process.ready(lambda: "listening" in self.process.text(), 30)
        done = subprocess.run([binary(), "check", "--config", self.folder / "tidegate.toml"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self, method, path, token=None, body=None):
        context = ssl.create_default_context(cafile=self.folder / CA)
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body and path.endswith("completions"):
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status


def test_plain(t):
    peer = Peer(t, "plain")
    assert peer.ask("GET", "/1k") == 200
    assert peer.ask("PUT", "/upload", body=b"x" * (64 << 20)) == 200, "an upload of 64 MiB"
    assert peer.ask("POST", "/v1/chat/completions", body=QUESTION) == 200
    assert peer.ask("POST", "/d5/v1/chat/completions", body=QUESTION) == 200
    assert [request.path for request in peer.upstream.requests] == [
        "/1k", "/upload", "/v1/chat/completions", "/d5/v1/chat/completions"]


def test_plain_verifies_its_upstream(t):
    peer = Peer(t, "plain", upstream_name="another.test")
    assert peer.ask("GET", "/1k") == 502 and peer.upstream.bytes() == 0


def test_governed(t):
    peer = Peer(t, "gov")

    def token(role, **more):
        return peer.issuer.token(subject="u", groups=[], role=role, tenant="t1", scope="api", **more)

    good = token("reader")
    head, payload, signature = good.split(".")
    assert peer.ask("GET", "/api/items", good) == 200
    assert peer.ask("DELETE", "/admin/items", token("admin")) == 200
    assert peer.ask("GET", "/api/items") == 401
    assert peer.ask("GET", "/api/items", f"{head}.{payload}.{signature[:-8]}AAAAAAAA") == 401
    assert peer.ask("GET", "/api/items", token("reader", seconds=-3600)) == 401
    assert peer.ask("GET", "/api/items", token("guest")) == 403
    assert peer.ask("GET", "/admin/items", good) == 403
    assert peer.upstream.paths() == ["/api/items", "/admin/items"]


def test_inference(t):
    peer = Peer(t, "ai")
    key = (peer.folder / "aikey").read_text()
    assert peer.ask("POST", "/v1/chat/completions", key, QUESTION) == 200
    assert peer.ask("POST", "/d5/v1/chat/completions", key, QUESTION) == 200
    assert peer.ask("POST", "/v1/chat/completions", None, QUESTION) == 401
    assert peer.ask("POST", "/v1/chat/completions", key[:-3] + "AAA", QUESTION) == 401
    assert len(peer.upstream.requests) == 2
    eventually(lambda: (peer.folder / "sink.port").exists(), "the sink of spans is there")
