"""Strangers verify the journal: a tlog verifier that is not ours, and plain Python that knows only the RFC and the C2SP texts."""
import base64
import hashlib
import json
import os
import shutil
import subprocess

import components
from harness import COMPONENTS, binary, kind, python_clients

LOG = "log-00000000000000000000"


def test_another_implementation_verifies_the_log(t):
    folder, python = components.install("tlog", COMPONENTS), components.modern_python()
    gateway, _ = t.echo_gateway()
    load(gateway, 150)
    gateway.stop()
    early = t.folder / "early"
    shutil.copy(gateway.journal / "tree" / LOG / "checkpoint", early)
    gateway.start()
    load(gateway, 200)
    gateway.stop()
    out = t.folder / "tlog"
    vkey = gateway.journal / "tree" / "vkey"
    gateway.command("audit", "verify", "--journal", gateway.journal, "--vkey", vkey, "--export", out)
    log, origin = out / LOG, early.read_text().splitlines()[0]
    size = int((log / "checkpoint").read_text().splitlines()[1])
    assert size > 700, size

    def verifier(*arguments):
        done = subprocess.run([python, "-m", "aics_tlog", *map(str, arguments), "--tiles", log, "--vkey-file", out / "vkey", "--origin", origin],
                              env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def audit():
        script = ("import sys, aics_tlog as a; d = sys.argv[1]; c, _ = a.checkpoint.checkpoint_from_note(open(d + '/checkpoint').read()); "
                  "print(a.audit_tiles(a.FileSystemTileReader(d), c.size, c.root))")
        done = subprocess.run([python, "-c", script, log], env={**os.environ, "PYTHONPATH": str(folder)},
                              capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def passes(answer):
        assert answer[0] == 0, answer[1]
        return answer[1]

    assert json.loads(passes(verifier("verify-checkpoint")))["ok"]
    for index in (0, 255, 256, size - 1):
        assert json.loads(passes(verifier("verify-inclusion", "--index", index)))["ok"]
    assert json.loads(passes(verifier("verify-consistency", "--old-checkpoint", early)))["ok"]
    assert f"size={size}" in passes(audit())

    bundle = log / "tile" / "entries" / "001"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    code, text = audit()
    assert code and "match" in text, (code, text)
    bundle.write_bytes(whole)
    passes(audit())


def test_plain_python_verifies_a_proof(t):
    gateway, _ = t.echo_gateway()
    load(gateway, 40)
    gateway.stop()
    record = next(r for r in gateway.records() if kind(r) == "decision")
    proof, vkey = t.folder / "crossing.tlog-proof", gateway.journal / "tree" / "vkey"
    gateway.command("audit", "proof", record["id"], "--journal", gateway.journal, "-o", proof)
    python_clients()
    assert json.loads(stranger(proof.read_text(), vkey.read_text()))["id"] == record["id"]
    shown = gateway.command("audit", "verify", "--proof", proof, "--vkey", vkey)
    assert record["id"] in shown and "verified" in shown

    text = proof.read_text()
    extra = text.splitlines()[1]
    changed = base64.b64decode(extra.split()[1]).replace(b"border-1", b"border-2")
    proof.write_text(text.replace(extra, f"extra {base64.b64encode(changed).decode()}"))
    try:
        stranger(proof.read_text(), vkey.read_text())
    except AssertionError:
        pass
    else:
        raise AssertionError("a changed record was proved")
    done = subprocess.run([binary(), "audit", "verify", "--proof", proof, "--vkey", vkey], capture_output=True, text=True)
    assert done.returncode == 1 and "NOT VERIFIED" in done.stdout, done


def stranger(proof, vkey):
    """The record that a proof proves, by RFC 9162 section 2.1.3.2 and C2SP tlog-proof, tlog-checkpoint and signed-note."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def sha(data):
        return hashlib.sha256(data).digest()
    head, note = proof.split("\n\n", 1)
    lines = head.split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    record, index = base64.b64decode(lines[1].removeprefix("extra ")), int(lines[2].removeprefix("index "))

    name, key_id, key = vkey.strip().split("+", 2)
    typed = base64.b64decode(key)
    assert typed[0] == 1 and sha(name.encode() + b"\n" + typed)[:4].hex() == key_id
    text, signatures = note.rsplit("\n\n", 1)
    mine = [blob for blob in (base64.b64decode(line.split()[2]) for line in signatures.strip().split("\n") if line.split()[1] == name)
            if blob[:4].hex() == key_id]
    Ed25519PublicKey.from_public_bytes(typed[1:]).verify(mine[0][4:], (text + "\n").encode())
    _, size, root = text.split("\n")[:3]

    node, last, value = index, int(size) - 1, sha(b"\0" + record)
    assert node <= last
    for sibling in map(base64.b64decode, lines[3:]):
        assert last
        if node % 2 or node == last:
            value = sha(b"\1" + sibling + value)
            while node % 2 == 0 and node:
                node, last = node >> 1, last >> 1
        else:
            value = sha(b"\1" + value + sibling)
        node, last = node >> 1, last >> 1
    assert last == 0 and value == base64.b64decode(root)
    return record.decode()


def load(gateway, count):
    for number in range(count):
        status, _, body = gateway.request("GET", f"/app/{number}")
        assert status == 200, (status, body)
