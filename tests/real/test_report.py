"""A bundle in the hands of a stranger: plain Python that knows the RFC and the C2SP texts, and a verifier that others wrote."""
import base64
import hashlib
import json
import os
import shutil
import subprocess

import components
from harness import COMPONENTS, binary, kind, python_clients


def bundle(t):
    """A bundle of the middle of a journal, the key, and all records of the journal."""
    gateway, _ = t.echo_gateway()
    for number in range(180):
        status, _, body = gateway.request("GET", f"/app/{number}")
        assert status == 200, (status, body)
    gateway.request("GET", "/nowhere")
    gateway.stop()
    out, vkey = t.folder / "bundle", t.folder / "gateway.vkey"
    shutil.copy(gateway.journal / "tree" / "vkey", vkey)
    shown = gateway.command("audit", "report", "--journal", gateway.journal, "--vkey", vkey, "--from", 60, "--to", 330, "-o", out)
    assert "270 records, complete and as signed" in shown, shown
    log, = out.glob("log-*")
    return gateway, out, log, vkey


def test_a_stranger_confirms_a_period(t):
    gateway, out, log, vkey = bundle(t)
    python_clients()
    records = [json.loads(line) for line in (log / "records.jsonl").read_text().splitlines()]
    assert stranger(log, vkey) == (59, 331)
    known = {(r.get("id"), r.get("attempt"), kind(r)) for r in gateway.records()}
    assert all((r.get("id"), r.get("attempt"), kind(r)) in known for r in records)
    manifest = json.loads((out / "manifest.json").read_text())
    for file in manifest["files"]:
        assert hashlib.sha256((out / file["name"]).read_bytes()).hexdigest() == file["sha256"], file
    decided = {r["bundle"] for r in records if kind(r) == "decision"}
    assert {p.name for p in (out / "policies").iterdir()} == decided and all(list((out / "policies" / d).glob("*.cedar")) for d in decided)
    page = (out / "index.html").read_text()
    assert "<script" not in page and "src=" not in page and "What crossed" in page

    # Whatever is done to the records, the stranger and the bundle's own checker find it.
    path = log / "records.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert checker(out, vkey)[0] == 0
    for changed in (b"".join(lines[:9] + lines[10:]), whole.replace(b"/app/77", b"/app/78"), b"".join(lines[:9] + [lines[8]] + lines[9:]),
                    b"".join(lines[:9] + [lines[10], lines[9]] + lines[11:]), b"".join(lines[1:]), b"".join(lines[:-1])):
        assert changed != whole
        path.write_bytes(changed)
        try:
            stranger(log, vkey)
        except (AssertionError, StopIteration):
            pass
        else:
            raise AssertionError("a changed bundle was confirmed")
        code, text = checker(out, vkey)
        assert code == 1 and "WRONG: log-" in text, text
    path.write_bytes(whole)
    other = t.folder / "other.vkey"
    other.write_text(vkey.read_text().replace(vkey.read_text()[-8:-2], "AAAAAA"))
    assert checker(out, other)[0] == 1


def test_the_journal_learns_who_took_records(t):
    gateway, _ = t.echo_gateway()
    assert gateway.request("GET", "/app/1")[0] == 200
    gateway.stop()
    gateway.command("audit", "export", "--journal", gateway.journal, "--format", "csv", "--decision", "allow", "-o", t.folder / "csv")
    gateway.command("audit", "report", "--journal", gateway.journal, "--from", 0, "--to", 2, "-o", t.folder / "bundle.tar")
    gateway.start()
    gateway.stop()
    read = [r for r in gateway.records() if r.get("event") == "audit.read"]
    assert [r["how"] for r in read] == ["export", "report"], read
    assert read[0]["asked"] == '{"decision":"allow"}' and read[0]["records"] == 2 and read[1]["records"] == 2, read


def test_another_implementation_checks_the_bundle(t):
    folder, python = components.install("tlog", COMPONENTS), components.modern_python()
    _, out, log, vkey = bundle(t)
    origin = (log / "checkpoint").read_text().splitlines()[0]

    def verifier(*arguments):
        done = subprocess.run([python, "-m", "aics_tlog", *map(str, arguments), "--tiles", log, "--vkey-file", vkey, "--origin", origin],
                              env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr
    code, text = verifier("verify-checkpoint")
    assert code == 0 and json.loads(text)["ok"], text
    lines = (log / "records.jsonl").read_bytes().splitlines()
    record = t.folder / "record"
    for index in (60, 255, 256, 329):
        record.write_bytes(lines[index - 59])
        code, text = verifier("verify-inclusion", "--index", index, "--leaf", record)
        assert code == 0 and json.loads(text)["ok"], text
        record.write_bytes(lines[index - 59].replace(b'"v":1', b'"v":2'))
        assert verifier("verify-inclusion", "--index", index, "--leaf", record)[0] == 1

    # The commands of the README, as they stand there, with the key beside the bundle and no checkpoint kept from earlier.
    blocks = (out / "README.md").read_text().split("```sh\n")[2:]
    script = "".join(line + "\n" for block in blocks for line in block.split("```")[0].splitlines() if "pip install" not in line and "kept" not in line)
    assert script.count("aics_tlog") == 2, script
    done = subprocess.run(["bash", "-euc", script.replace("python3", str(python))], cwd=out, env={**os.environ, "PYTHONPATH": str(folder)},
                          capture_output=True, text=True, timeout=60)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [answer["ok"] for answer in answers] == [True, True], (script, done)


def test_an_export_of_the_backend_is_reconciled(t):
    gateway, _, _, _ = bundle(t)
    done = subprocess.run([binary(), "audit", "export", "--journal", gateway.journal, "--format", "ocsf", "-o", t.folder / "ocsf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    events = (t.folder / "ocsf" / "records.ocsf.jsonl").read_text().splitlines(keepends=True)
    export = t.folder / "backend.jsonl"
    export.write_text("".join(events))

    def reconcile():
        done = subprocess.run([binary(), "audit", "reconcile", "--journal", gateway.journal, "--export", export, "--output", "json"], capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout)
    code, found = reconcile()
    assert code == 0 and found["agrees"] and found["found"] == len(events), found
    export.write_text("".join(events[:40] + events[41:] + events[:1]))
    code, found = reconcile()
    assert code == 1 and found["missing"]["first"][0]["seq"] == 40 and found["duplicates"] == 1, found


def checker(out, vkey):
    """The program in the bundle."""
    folder = components.install("clients", COMPONENTS)
    import sys
    done = subprocess.run([sys.executable, "verify.py", vkey], cwd=out, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def stranger(log, vkey):
    """Which leaves a bundle proves to be in a signed log, all and unchanged: by RFC 6962 section 2.1, C2SP signed-note and tlog-checkpoint."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def sha(data):
        return hashlib.sha256(data).digest()
    name, key_id, key = vkey.read_text().strip().split("+", 2)
    text, signatures = (log / "checkpoint").read_text().rsplit("\n\n", 1)
    blobs = [base64.b64decode(line.split()[2]) for line in signatures.strip().split("\n") if line.split()[1] == name]
    signature, = [blob[4:] for blob in blobs if blob[:4].hex() == key_id]
    Ed25519PublicKey.from_public_bytes(base64.b64decode(key)[1:]).verify(signature, (text + "\n").encode())
    _, size, root = text.split("\n")[:3]

    window = json.loads((log / "window.json").read_text())
    leaves = [sha(b"\0" + record) for record in (log / "records.jsonl").read_bytes().split(b"\n")[:-1]]
    first, end = window["first_index"], window["end_index"]
    assert len(leaves) == end - first
    around = iter([base64.b64decode(h) for h in window["hashes"]])

    def mth(low, high):
        if high <= first or end <= low:
            return next(around)
        if high == low + 1:
            return leaves[low - first]
        half = 1
        while half * 2 < high - low:
            half *= 2
        left = mth(low, low + half)
        return sha(b"\1" + left + mth(low + half, high))
    assert base64.b64encode(mth(0, int(size))).decode() == root and next(around, None) is None
    return first, end
