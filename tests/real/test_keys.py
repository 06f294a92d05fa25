"""Keys behind a real key service and a real token: what is down, slow, revoked, rotated or swapped; and that no key shows itself anywhere."""
import base64
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import components
from components import bao_call, bao_token
from harness import COMPONENTS, ROOT, binary, chat_route, gateway_config
from process import eventually


def test_a_token_that_may_only_encrypt_and_decrypt_is_enough(t):
    world = World(t, t.component("bao"))
    sealed = world.seal(b"kept")
    assert world.open(sealed).stdout == b"kept"
    assert all(row["wrapped"].startswith("vault:v1:") for row in world.files().values())
    world.no_secret_shows()


def test_the_transit_key_is_rotated_and_old_versions_are_closed(t):
    bao = t.component("bao")
    world = World(t, bao)
    sealed = world.seal(b"kept")
    copy = world.files()
    bao_call(bao, f"transit/keys/{bao.key}/rotate", {})
    world.run("keys", "rewrap")
    assert {row["wrapped"].split(":")[1] for row in world.files().values()} == {"v2"}
    assert {name: row["wraps"] for name, row in copy.items()} == {name: row["wraps"] for name, row in world.files().items()}
    bao_call(bao, f"transit/keys/{bao.key}/config", {"min_decryption_version": 2})
    t.defer(bao_call, bao, f"transit/keys/{bao.key}/config", {"min_decryption_version": 1})
    assert world.open(sealed).stdout == b"kept", "what was sealed before is still opened"
    world.write(copy)
    world.refused(sealed, "400")


def test_a_wrapped_key_does_not_open_under_another_name(t):
    world = World(t, t.component("bao"))
    sealed, files = world.seal(b"kept"), world.files()
    rest, answer = (next(name for name in files if f"~{way}~" in name) for way in ("rest", "answer"))
    swapped = {**files, rest: {**files[rest], "wrapped": files[answer]["wrapped"]}}
    world.write(swapped)
    world.refused(sealed, "400")
    world.write({**files, rest: {**files[rest], "name": files[answer]["name"]}})
    world.refused(sealed, "no key file")
    world.write(files)
    assert world.open(sealed).stdout == b"kept"


def test_a_revoked_token_opens_nothing_and_a_new_one_is_read(t):
    bao = t.component("bao")
    world = World(t, bao)
    sealed = world.seal(b"kept")
    bao_call(bao, "auth/token/revoke", {"token": world.token})
    refused = world.refused(sealed, "403")
    assert world.token not in refused
    world.give_token(bao_token(bao))
    assert world.open(sealed).stdout == b"kept"


def test_a_key_service_that_is_gone_or_hangs_is_told_within_its_timeout(t):
    bao = own_bao(t)
    world = World(t, bao, timeout="500ms")
    sealed = world.seal(b"kept")
    bao.process.signal(signal.SIGSTOP)
    began = time.monotonic()
    world.refused(sealed, "did not answer")
    assert time.monotonic() - began < 5
    bao.process.signal(signal.SIGCONT)
    assert world.open(sealed).stdout == b"kept"
    bao.process.kill()
    world.refused(sealed, "did not answer")


def test_a_gateway_under_load_seals_from_memory_and_then_refuses(t):
    """The answers of the far side are not sealed, so a request that left sealed ends in 502, one that could not be sealed in 503."""
    bao, upstream = own_bao(t), t.recorder()
    gateway = sealing_gateway(t, bao, upstream)
    marker = "tidemark-" + os.urandom(8).hex()
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": marker}]})

    def ask():
        began = time.monotonic()
        status, _, answer = gateway.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"}, certificate=True)
        return status, json.loads(answer).get("code"), time.monotonic() - began

    seen, stop = [], threading.Event()

    def load():
        while not stop.is_set():
            seen.append(ask())

    first = ask()
    assert first[0] == 502 and len(upstream.requests) == 1, (first, gateway.process.text()[-2000:])
    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(seen) > 20, "requests go through")
        bao.process.signal(signal.SIGSTOP)
        at = len(seen)
        eventually(lambda: len(seen) > at + 20, "requests go through while the key service hangs")
        assert {code[1] for code in seen[at:at + 20]} == {first[1]}, seen[at:at + 20]
        eventually(lambda: seen[-1][:2] == (503, "key_unavailable"), "the key is over its age and requests are refused", 20)
        bao.process.signal(signal.SIGCONT)
        eventually(lambda: seen[-1][1] == first[1], "requests go through again", 20)
        bao.process.kill()
        eventually(lambda: seen[-1][:2] == (503, "key_unavailable"), "the key service is gone and requests are refused", 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {(status, code) for status, code, _ in seen} == {first[:2], (503, "key_unavailable")}
    assert max(took for _, _, took in seen) < 5, "nobody waits for a key service for long"
    assert len(upstream.requests) > 20 and not any(marker.encode() in request.body for request in upstream.requests)
    log = gateway.process.text()
    assert marker not in log and bao.token not in log
    limits = Path(f"/proc/{gateway.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()[4:6] == ["0", "0"], limits


def test_hsm(t):
    token = components.softhsm(COMPONENTS, t.folder / "token")
    pin = t.folder / "pin"
    pin.write_text(token["pin"])
    pin.chmod(0o600)
    done = subprocess.run(
        ["cargo", "test", "--locked", "--lib", "--features", "pkcs11", "protect::keys::pkcs11"], cwd=ROOT, stdin=subprocess.DEVNULL,
        capture_output=True, text=True,
        env={**os.environ, **token["env"], "TIDEGATE_TEST_PKCS11_MODULE": token["module"],
             "TIDEGATE_TEST_PKCS11_TOKEN": token["token"], "TIDEGATE_TEST_PKCS11_PIN_FILE": str(pin)})
    assert done.returncode == 0 and "1 passed" in done.stdout, (done.stdout + done.stderr)[-3000:]
    assert len(list((t.folder / "token" / "tokens").rglob("*.object"))) >= 2, "the test did not reach the token"


def test_a_sealed_file_moves_to_the_newest_branch_key(t):
    world = World(t, t.component("bao"))
    text = os.urandom(200_000)
    old = world.seal(text)
    world.run("keys", "rotate", "--direction", "rest")
    common = ["--tenant", "acme", "--recipient", "lake"]
    (world.folder / "old").write_bytes(old)
    world.run("keys", "rewrap-message", *common, "old", "-o", "new")
    new = (world.folder / "new").read_bytes()
    assert new != old and new[-150_000:] == old[-150_000:], "the frames stay as they are"
    world.run("keys", "retire", "--direction", "rest", "--version", "1")
    assert world.open(new).stdout == text and world.open(old).returncode == 1
    (world.folder / "cut").write_bytes(new[:-1])
    done = world.call("keys", "rewrap-message", "--config", "tidegate.toml", *common, "cut", "-o", "worse")
    assert done.returncode == 1 and b"truncated" in done.stderr.lower() and not (world.folder / "worse").exists(), done


def test_the_journal_learns_what_became_of_the_keys(t):
    """`tidegate keys` is another process than the gateway: what it does is on record, once, by whom and to which version."""
    gateway = sealing_gateway(t, t.component("bao"), t.recorder())

    def told():
        return [(record["change"], record["key"].rsplit("/", 1)[-1]) for record in gateway.records() if record.get("event") == "sealing.key"]
    made = told()
    gateway.command("keys", "rotate", "--config", gateway.file, "--direction", "request")
    gateway.command("keys", "rewrap", "--config", gateway.file, "--direction", "request")
    gateway.command("keys", "retire", "--config", gateway.file, "--direction", "request", "--version", "1")
    gateway.command("keys", "retire", "--config", gateway.file, "--direction", "request", "--version", "1", "--destroy", "--yes")
    wanted = [("rotate", "v2"), ("rewrap", "v1"), ("rewrap", "v2"), ("retire", "v1"), ("destroy", "v1")]
    eventually(lambda: [one for one in told() if one not in made] == wanted, f"{wanted} are on record", 15)
    gateway.stop()
    record = next(record for record in gateway.records() if record.get("change") == "rotate")
    assert record["actor"].startswith("uid:") and "acme" in record["key"] and "haven" in record["key"], record
    gateway.command("audit", "verify", "--journal", gateway.journal, "--vkey", gateway.journal / "tree" / "vkey")


def own_bao(t):
    """A key service that the test may end."""
    bao = components.start("bao", COMPONENTS, t.folder / "bao")
    t.defer(bao.process.kill)
    return bao


def sealing_gateway(t, bao, upstream):
    keys = {"directory": "branch", "cache": "3s", "roots": {"bao": {"transit": {
        "address": bao.url, "key": bao.key, "token_file": "bao.token", "timeout": "500ms"}}}}
    config = gateway_config(
        [chat_route(level="restricted")], clusters={"eu": {"endpoints": [upstream.url], "models": ["m"], "can_open": "haven"}},
        changes={"keys": keys, "recipients": {"haven": {"root": "bao"}}})
    gateway = t.gateway(config, {"bao.token": bao_token(bao)}, start=False)
    path = gateway.folder / "policies" / "entities.json"
    entities = json.loads(path.read_text())
    for entity in entities:
        if entity["uid"] == {"type": "Tidegate::Cluster", "id": "eu"}:
            entity["attrs"]["peer"] = True
    path.write_text(json.dumps(entities))
    gateway.command("keys", "init", "--config", gateway.file)
    gateway.start()
    return gateway


class World:
    """A folder whose branch keys are wrapped by a key service."""

    def __init__(self, t, bao, timeout="2s"):
        self.folder, self.bao, self.shown = t.folder / "world", bao, []
        self.folder.mkdir()
        self.give_token(bao_token(bao))
        (self.folder / "tidegate.toml").write_text(f"""
[listen]
address = "127.0.0.1:0"
[policy]
directory = "policies"
[audit]
directory = "journal"
[keys]
directory = "keys"
[keys.roots.bao]
transit = {{ address = "{bao.url}", key = "{bao.key}", token_file = "token", timeout = "{timeout}" }}
[recipients.lake]
root = "bao"
""")
        self.run("keys", "init", "--tenant", "acme")

    def give_token(self, token):
        self.token, path = token, self.folder / "token"
        path.write_text(token)
        path.chmod(0o600)

    def call(self, *arguments, data=b""):
        done = subprocess.run([binary(), *arguments], cwd=self.folder, input=data, capture_output=True,
                              env={**os.environ, "RUST_LOG": "trace"}, timeout=60)
        self.shown.append(done.stderr + (b"" if arguments[0] in ("seal", "open") else done.stdout))
        return done

    def run(self, *arguments):
        done = self.call(*arguments[:2], "--config", "tidegate.toml", *arguments[2:])
        assert done.returncode == 0, done
        return done.stdout

    def seal(self, plain):
        done = self.call("seal", "--config", "tidegate.toml", "--tenant", "acme", "--recipient", "lake", "-", "-o", "-", data=plain)
        assert done.returncode == 0, done
        return done.stdout

    def open(self, sealed):
        return self.call("open", "--config", "tidegate.toml", "--tenant", "acme", "--recipient", "lake", "-", "-o", "-", data=sealed)

    def refused(self, sealed, word):
        done = self.open(sealed)
        text = done.stderr.decode()
        assert done.returncode == 3 and not done.stdout and word in text, (word, done)
        return text

    def files(self):
        return {path.name: json.loads(path.read_text()) for path in (self.folder / "keys").glob("*.key.json")}

    def write(self, files):
        for name, row in files.items():
            (self.folder / "keys" / name).write_text(json.dumps(row))

    def no_secret_shows(self):
        """The branch keys, the token: in no output and in no file but those that are for them."""
        secrets = [self.token.encode()]
        for number, way in enumerate(("request", "answer", "rest")):
            name = f"exported-{number}"
            self.run("keys", "export", "--tenant", "acme", "--recipient", "lake", "--direction", way, "-o", name)
            key = (self.folder / name).read_bytes()
            (self.folder / name).unlink()
            secrets += [key, key.hex().encode(), base64.b64encode(key).rstrip(b"="), str(list(key[:4]))[1:-1].encode()]
        (self.folder / "token").unlink()
        for text in [*self.shown, *(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())]:
            assert not any(secret in text for secret in secrets), text
