#!/usr/bin/env python3
"""Teaches the compiler what the gateway does most: runs an instrumented build under load, and writes the profile that a release is built with.

  RUSTFLAGS="-Cprofile-generate=$PWD/target/raw" cargo build --release --target-dir target/instrumented
  benches/train.py --bin target/instrumented/release/tidegate --out deploy/tidegate.profdata

The load is what the benchmarks measure and no more: requests with and without tokens over HTTP/1.1 and HTTP/2, allowed and denied, new
connections, chats and event streams, objects both ways, the same sealed. How often a branch was taken is all that is kept of it, by the names
that functions have with this compiler, these dependencies and settings: what those are is written beside it, for deploy/build to compare.
Needs h2load, nginx, openssl, taskset, and the llvm-profdata of the compiler's own LLVM (`rustup component add llvm-tools`, or --profdata).
"""
import argparse
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sealing import NAMES, ROOT, Bench, Pair, Store, free_port

ISSUER, AUDIENCE = "https://issuer.bench", "gateway"
CHAT = {"model": "mock", "messages": [{"role": "user", "content": "Which of the two tides of a day is the higher one, and why?"}]}
TOKENS = 200
SECONDS = 2
# How much a count is worth: what is sealed is asked for by one client, one after the other, and would pass for seldom used.
WEIGHTS = {"requests": 1, "store": 10, "pair": 20}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--bin", required=True, type=Path)
    arguments.add_argument("--out", required=True, type=Path)
    arguments.add_argument("--profdata", type=Path, help="the llvm-profdata to use")
    options = arguments.parse_args()
    profdata = options.profdata or find_profdata()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory(prefix="train-", dir=ROOT / "target") as folder:
        os.chmod(folder, 0o755)
        folder = Path(folder)
        program = wrapped(options.bin.resolve(), folder / "tidegate")
        with Requests(folder / "requests", program) as bench:
            bench.drive()
        with Store(folder / "store", program) as bench:
            for name, times in (("small", 2000), ("large", 4)):
                for _ in range(times):
                    bench.read("open", name)
                    bench.read("shut", name)
            for _ in range(4):
                bench.write("open", None)
                bench.write("shut", None)
        with Pair(folder / "pair", program) as bench:
            for _ in range(30):
                for name in NAMES.values():
                    bench.stream("plain", name)
                    bench.stream("sealed", name)
        raw = sorted(folder.rglob("*.profraw"))
        if not raw:
            sys.exit(f"{options.bin} left no profile: build it with RUSTFLAGS=-Cprofile-generate=…")
        weighted = [f"--weighted-input={WEIGHTS[file.relative_to(folder).parts[0]]},{file}" for file in raw]
        subprocess.run([profdata, "merge", "--sparse", "-o", options.out, *weighted], check=True)
    Path(f"{options.out}.for").write_bytes(subprocess.run([ROOT / "deploy/build", "--fits"], stdout=subprocess.PIPE, check=True).stdout)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes from {len(raw)} gateways")


def find_profdata():
    root = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    found = next(Path(root).glob("lib/rustlib/*/bin/llvm-profdata"), None) or shutil.which("llvm-profdata")
    return found or sys.exit("no llvm-profdata: rustup component add llvm-tools")


def wrapped(program, path):
    """The program such that a gateway leaves its counts in its journal, the one place where it may write, and other commands leave none."""
    path.write_text(f"""#!/bin/sh
case $1 in serve) LLVM_PROFILE_FILE=$PWD/journal/counts.profraw ;; *) LLVM_PROFILE_FILE=/dev/null ;; esac
export LLVM_PROFILE_FILE
exec {program} "$@"
""")
    path.chmod(0o755)
    return path


class Requests(Bench):
    """The gateways of the side-by-side benchmark, one after the other, before an nginx."""

    def prepare(self):
        self.certificates()
        self.keys = {name: self.key(name, *argv) for name, argv in (("RS256", ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]), ("ES256", ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]))}
        (self.folder / "jwks.json").write_text(json.dumps({"keys": [jwk for jwk, _ in self.keys.values()]}))
        www = self.folder / "www" / "api"
        www.mkdir(parents=True)
        www.chmod(0o777)
        (www / "item").write_text(json.dumps({"data": "x" * 1000}))
        (www / "large").write_bytes(os.urandom(1 << 20) * 64)
        (self.folder / "large").write_bytes((www / "large").read_bytes())
        (self.folder / "chat.json").write_text(json.dumps(CHAT))
        (self.folder / "stream.json").write_text(json.dumps({**CHAT, "stream": True, "stream_options": {"include_usage": True}}))
        piece = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "mock"}
        usage = {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS}
        events = [{**piece, "choices": [{"index": 0, "delta": {"content": f" tide{index}"}, "finish_reason": None}]} for index in range(TOKENS)]
        events.append({**piece, "choices": [], "usage": usage})
        (www.parent / "stream").write_text("".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n")
        (www.parent / "chat").write_text(json.dumps({**piece, "object": "chat.completion", "usage": usage,
                             "choices": [{"index": 0, "message": {"role": "assistant", "content": "The one nearer the moon." * 8}, "finish_reason": "stop"}]}))
        self.tls, self.plain = free_port(), free_port()
        self.nginx(4096, f"""listen 127.0.0.1:{self.tls} ssl; listen 127.0.0.1:{self.plain}; root www; dav_methods PUT; default_type application/json;
    location = /v1/chat/completions {{ error_page 404 =200 /chat; }}
    location = /d0/v1/chat/completions {{ error_page 404 =200 /stream; }}
    location = /stream {{ default_type text/event-stream; }}""", self.tls)

    def key(self, name, algorithm, *options):
        """A key of an issuer: as it stands in a JWKS, and its file."""
        file = self.folder / f"{name}.pem"
        openssl("genpkey", "-algorithm", algorithm, *options, "-out", file)
        numbers = openssl("pkey", "-in", file, "-noout", "-text").decode()
        digits = lambda label: bytes.fromhex(re.sub(r"[\s:]", "", re.search(label + r":\s*\n((?:\s+[0-9a-f:]+\n)+)", numbers)[1]))
        if algorithm == "RSA":
            jwk = {"kty": "RSA", "n": base64url(digits("modulus").lstrip(b"\0")), "e": "AQAB"}
        else:
            point = digits("pub")
            jwk = {"kty": "EC", "crv": "P-256", "x": base64url(point[1:33]), "y": base64url(point[33:])}
        return {**jwk, "kid": name, "alg": name, "use": "sig"}, file

    def token(self, algorithm, number):
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": f"user-{number}", "role": "reader", "tenant": "bench", "scope": "read", "iat": now, "exp": now + 3600}
        text = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": algorithm, "typ": "JWT", "kid": algorithm}, claims))
        signature = openssl("dgst", "-sha256", "-sign", self.keys[algorithm][1], stdin=text.encode())
        if algorithm == "ES256":
            # Two integers in DER; a JWS has them as 32 bytes each (RFC 7518, section 3.4).
            first = signature[4:4 + signature[3]]
            second = signature[6 + signature[3]:]
            signature = b"".join(number.lstrip(b"\0").rjust(32, b"\0") for number in (first, second))
        return f"{text}.{base64url(signature)}"

    def drive(self):
        get, tokens = ["/api/item"], [["-H", f"authorization: Bearer {self.token(name, number)}"] for name in self.keys for number in range(2)]
        with self.peer("plain") as load:
            load("--h1", "-c32", *get)
            load("-c8", "-m4", *get)
            load("--h1", "-c1000", "-n1000", *get)
            load("--h1", "-c1", "-n8", "/api/large")
            load("--h1", "-c1", "-n8", "-d", self.folder / "large", "-H", ":method: PUT", "/api/upload")
        for more in ({}, {"PB_AUDIT": "required"}, {"PB_TOKEN_CACHE": "0"}):
            with self.peer("gov", **more) as load:
                for token in tokens:
                    load("--h1", "-c32", *token, *get)
                    load("-c8", "-m4", *token, *get)
                    load("--h1", "-c8", "-n500", *token, "/admin/x")
                load("--h1", "-c8", "-n500", *get)
        with self.peer("ai") as load:
            key = ["-H", f"authorization: Bearer {(self.folder / 'ai' / 'aikey').read_text()}", "-H", "content-type: application/json"]
            load("--h1", "-c8", *key, "-d", self.folder / "chat.json", "/v1/chat/completions")
            load("-c4", "-m2", *key, "-d", self.folder / "chat.json", "/v1/chat/completions")
            load("--h1", "-c4", *key, "-d", self.folder / "stream.json", "/d0/v1/chat/completions")

    def peer(self, mode, **more):
        return Peer(self, mode, more)


class Peer:
    """A gateway as benches/peers starts it, and load upon it."""

    def __init__(self, bench, mode, more):
        self.port = free_port()
        self.folder = bench.folder / "-".join([mode, *more.values()])
        self.folder.mkdir()
        certs = bench.folder / "certs"
        tls = mode != "ai"
        self.environment = {**os.environ, "GATEWAY_BIN": str(bench.program), "PB_MODE": mode, "PB_HOST": "127.0.0.1", "PB_LISTEN": str(self.port),
                            "PB_CERT": f"{certs}/server.pem", "PB_KEY": f"{certs}/server.key", "PB_CA": f"{certs}/ca.pem", "PB_UPSTREAM_SNI": "localhost",
                            "PB_UPSTREAM_PORT": str(bench.tls if tls else bench.plain), "PB_UPSTREAM_TLS": "1" if tls else "0", "PB_THREADS": "1",
                            "PB_JWKS": str(bench.folder / "jwks.json"), "PB_ISS": ISSUER, "PB_AUD": AUDIENCE, "PB_DIR": str(self.folder), **more}
        self.bench = bench

    def __enter__(self):
        with_environment = ["env", *(f"{name}={value}" for name, value in self.environment.items() if name not in os.environ)]
        self.process = self.bench.start([*with_environment, "bash", ROOT / "benches/peers/tidegate.sh"], 0, self.port, self.folder)
        return self.load

    def load(self, *argv):
        """Runs h2load; the last word is a path."""
        *options, path = map(str, argv)
        time_bound = [] if any(option.startswith("-n") for option in options) else ["-D", str(SECONDS)]
        done = subprocess.run(["h2load", *time_bound, *options, f"https://localhost:{self.port}{path}"], capture_output=True, text=True)
        answered = re.search(r"status codes: (\d+) 2xx, \d+ 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
        if done.returncode or not answered or int(answered[3]) or not int(answered[1]) + int(answered[2]):
            sys.exit(f"h2load {' '.join(options)} {path}:\n{done.stdout[-1500:]}{done.stderr}")
        print(f"{self.folder.name:<14} {answered[0]}  {' '.join(option for option in options if len(option) < 20)} {path}", flush=True)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)
        self.bench.running.remove(self.process)


def openssl(*argv, stdin=None):
    return subprocess.run(["openssl", *map(str, argv)], input=stdin, capture_output=True, check=True).stdout


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


if __name__ == "__main__":
    main()
