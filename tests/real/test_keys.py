"""Branch keys wrapped by a real OpenBao: stopped, killed and revoked while a gateway seals under load. It never answers in the clear."""
import json
import signal
import subprocess
import threading
import time

import components
from checks import s3_client
from harness import COMPONENTS, SPIFFE_ID, binary, gateway_config
from process import eventually

BODY = b"MARKER-PLAINTEXT " * 4000
HELD = 3      # seconds that a branch key is held


def test_a_key_service_that_is_down_stops_sealing_and_nothing_leaves_plain(t):
    bao, gateway, path = setup(t)
    assert fetch(gateway, path) == 200
    load = Load(gateway, path)
    try:
        # Stopped: it accepts connections and answers nothing.
        bao.process.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        eventually(lambda: load.last == 503, "the held key is too old, and no other is to be had", 20)
        assert time.monotonic() - stopped > HELD * 0.15, "the held key served on for a while"
        bao.process.signal(signal.SIGCONT)
        eventually(lambda: load.last == 200, "it seals again when the key service answers", 20)
        # Revoked: the token may no longer use the key.
        bao.call("PUT", "sys/policies/acl/gateway", {"policy": 'path "transit/encrypt/other" { capabilities = ["update"] }'})
        eventually(lambda: load.last == 503, "a token without the right opens nothing", 20)
        bao.call("PUT", "sys/policies/acl/gateway", {"policy": 'path "transit/+/tidegate" { capabilities = ["update"] }'})
        eventually(lambda: load.last == 200, "the right is back", 20)
        bao.process.kill()
        eventually(lambda: load.last == 503, "nobody is there to open a key", 20)
    finally:
        load.end()
    assert set(load.seen) == {200, 503}, load.seen
    assert not load.plain, "an answer left in the clear"
    # However often a key is opened again, wraps that were set aside are used before others are.
    files = [json.loads(file.read_text()) for file in (gateway.folder / "branch").glob("*.json")]
    assert {file["wraps"] for file in files if "/answer/" in file["name"]} == {1 << 20}, files
    log = gateway.log()
    assert "could not be opened again" in log or "cannot be used" in log, log[-2000:]
    assert bao.token not in log


def test_root_keys_are_rotated_and_branch_keys_wrapped_anew(t):
    bao, gateway, path = setup(t)
    bao.call("POST", "transit/keys/tidegate/rotate")
    keys(gateway, "rewrap")
    wrapped = [file.read_text() for file in (gateway.folder / "branch").glob("*.json")]
    assert len(wrapped) == 3 and all("vault:v2:" in text for text in wrapped), wrapped
    bao.call("POST", "transit/keys/tidegate/config", {"min_decryption_version": 2})
    gateway.stop()
    gateway.start()
    assert fetch(gateway, path) == 200
    # A wrapped key under another name does not open: the name is authenticated with it.
    one, other = sorted((gateway.folder / "branch").glob("*.json"))[:2]
    swapped = other.read_text().replace("/request/" if "/request/" in other.read_text() else "/rest/", "/answer/")
    (gateway.folder / "branch" / one.name).write_text(swapped)
    gateway.stop()
    gateway.start()
    assert fetch(gateway, path) == 503


def setup(t):
    bao = components.start("kms", COMPONENTS, t.folder / "kms")
    t.defer(bao.process.stop)
    store = t.component("s3")
    direct = s3_client(store.url, keys=(store.access_key, store.secret_key))
    bucket = "keys-" + str(t.folder)[-8:].lower().replace("_", "x")
    direct.create_bucket(Bucket=bucket)
    direct.put_object(Bucket=bucket, Key="handbook/a", Body=BODY)
    config = gateway_config(
        [{"name": "lake", "path": "/lake/*", "store": "lake"}],
        clusters={"eu": {"endpoints": ["http://127.0.0.1:9"], "models": ["m"]}},
        stores={"lake": {
            "endpoints": [store.url], "region": store.region, "access_key_id": store.access_key, "secret_key_file": "keys/lake.key",
            "datasets": [{"id": "handbook", "bucket": bucket, "prefix": "handbook/", "level": "restricted", "residency": ["world"]}]}})
    config["identity"]["mtls"]["trust_domains"][0]["workloads"] = [
        {"id": SPIFFE_ID, "teams": ["research"], "cluster": "eu", "can_open": "job"}]
    config["keys"] = {"directory": "branch", "cache": f"{HELD}s", "roots": {"bao": {"transit": {
        "address": bao.url, "key": "tidegate", "token_file": "keys/bao.token", "timeout": "500ms"}}}}
    config["recipients"] = {"job": {"root": "bao"}}
    gateway = t.gateway(config, {"keys/lake.key": store.secret_key, "keys/bao.token": bao.token}, start=False)
    keys(gateway, "init", "--tenant", "acme")
    gateway.start()
    return bao, gateway, f"/lake/{bucket}/handbook/a"


def keys(gateway, *arguments):
    done = subprocess.run([binary(), "keys", arguments[0], "--config", gateway.file, *arguments[1:]], cwd=gateway.folder, capture_output=True, text=True)
    assert done.returncode == 0, done


def fetch(gateway, path, plain=None):
    status, _, body = gateway.request("GET", path, certificate=True)
    if b"MARKER-PLAINTEXT" in body:
        (plain if plain is not None else []).append(body)
        assert plain is not None, "in the clear"
    return status


class Load:
    """Reads without pause, from two threads, until it is ended."""

    def __init__(self, gateway, path):
        self.seen, self.plain, self.last, self.stop = [], [], None, threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(gateway, path)) for _ in range(2)]
        for thread in self.threads:
            thread.start()

    def run(self, gateway, path):
        while not self.stop.is_set():
            self.last = fetch(gateway, path, self.plain)
            self.seen.append(self.last)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(30)
