"""Records at OTLP collectors that are down, slow, full, picky or restarted: nothing is missing, and duplicates share the uid."""
import json
import ssl
import subprocess
import threading
from collections import defaultdict

import components
from collector import NOTHING, partial
from harness import CA, CLIENT, CLIENT_KEY, COMPONENTS, RECORD_HEADER, SERVER, SERVER_KEY, binary, gateway_config, service_route
from process import eventually, free_port

QUICK = {"delay": "20ms", "timeout": "1s", "retry_max": "100ms"}


def exporting(t, collector, start=True, secrets=None, **more):
    """A gateway before a recorder that sends its records to `collector`."""
    recorder = t.recorder()
    config = gateway_config([service_route()], services={"echo": {"endpoints": [recorder.url]}},
                            changes={"audit.export": {"backend": {"endpoint": collector.url, **QUICK, **more}}})
    return t.gateway(config, secrets, start=start)


def ask(gateway, count, path="/app/x"):
    """That many requests; each must be answered at once, whatever the collector does."""
    for number in range(count):
        assert gateway.request("GET", f"{path}?n={number}")[0] == 200


def figure(gateway, name):
    """A metric of the destination, from the page that Prometheus scrapes."""
    for line in gateway.admin("/metrics").splitlines():
        if line.startswith(f"tidegate_audit_export_{name}") and "{" in line:
            assert 'tidegate_destination="backend"' in line, line
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no metric tidegate_audit_export_{name}:\n{gateway.admin('/metrics')[-2000:]}")


def complete(gateway, collector, missing=()):
    """Waits until the collector has each record of the journal but those; then compares every byte that both have."""
    lacks = []

    def whole():
        records = gateway.records()
        lacks[:] = sorted(set(range(len(records))) ^ (collector.seqs() | set(missing)))
        return None if lacks else records
    try:
        records = eventually(whole, "every record is at the collector", 30)
    except AssertionError as error:
        raise AssertionError(f"{error}: {lacks} differ\n{gateway.log()[-3000:]}") from None
    by_seq, by_uid = defaultdict(set), defaultdict(set)
    for log in collector.got():
        by_seq[log.seq].add((log.uid, log.body, log.name))
        by_uid[log.uid].add(log.seq)
    assert all(len(same) == 1 for same in by_seq.values()), "a record arrived in two forms"
    assert all(len(same) == 1 for same in by_uid.values()), "two records share a uid"
    for seq, same in by_seq.items():
        (uid, body, name), = same
        sent, kept = json.loads(body), {k: v for k, v in records[seq].items() if k != "seq"}
        assert {k: v for k, v in sent.items() if k != "seq"} == kept, (seq, sent, kept)
        if "id" in sent:
            assert uid.startswith(sent["id"]), uid
        assert name.startswith("tidegate.audit."), name
    return records


def test_outages_lose_nothing(t):
    collector = t.collector()
    gateway = exporting(t, collector)
    ask(gateway, 5)
    eventually(lambda: len(collector.seqs()) > 10, "records arrive")

    collector.stop()                                            # down, for many attempts
    ask(gateway, 30)
    eventually(lambda: figure(gateway, "failures") >= 5, "it is tried again and again")
    assert figure(gateway, "lag_records") >= 60 and figure(gateway, "state") == 1
    eventually(lambda: figure(gateway, "lag_seconds") >= 1, "the lag grows")
    collector.start()
    complete(gateway, collector)
    eventually(lambda: figure(gateway, "lag_records") == 0 and figure(gateway, "state") == 0, "it has caught up")

    busy = iter([(503, {"retry-after": "1"}, b"", NOTHING), (429, {}, b"", NOTHING), (502, {}, b"<html>", NOTHING), (504, {}, b"", NOTHING)])
    collector.answer = lambda logs, _: next(busy, None) if logs else None
    ask(gateway, 10)
    complete(gateway, collector)
    assert next(busy, None) is None, "all of them were given"

    slow, released = threading.Semaphore(2), threading.Event()  # takes the records, and answers too late

    def late(logs, _):
        if slow.acquire(blocking=False):
            released.wait(30)
    collector.answer = late
    failures = figure(gateway, "failures")
    ask(gateway, 10)
    eventually(lambda: figure(gateway, "failures") >= failures + 2, "an answer that does not come is waited for no longer than said", 15)
    released.set()
    complete(gateway, collector)
    eventually(lambda: len(collector.got()) > len(collector.seqs()), "what was taken and not acknowledged came twice")


def test_a_killed_gateway_goes_on_where_it_was(t):
    collector = t.collector()
    gateway = exporting(t, collector, delay="400ms")      # so that a stop comes while it collects
    ask(gateway, 10)
    eventually(collector.seqs, "records arrive")
    collector.answer = lambda *_: (503, {}, b"", NOTHING)
    ask(gateway, 20)
    gateway.process.kill()
    gateway.start()
    ask(gateway, 5)
    collector.answer = None
    complete(gateway, collector)
    gateway.stop()
    records = gateway.records()
    assert records[-1]["event"] == "stop"
    assert len(records) - 1 in collector.seqs(), "the last record leaves before the gateway does"
    cursor = json.loads((gateway.journal / "export" / "backend" / "cursor").read_text())
    assert cursor == {"seq": len(records), "required": True, "dead_letters": 0}, cursor
    again = len(collector.got())
    gateway.start()
    eventually(lambda: len(gateway.records()) - 1 in collector.seqs(), "the start arrives")
    assert len(collector.got()) == len(gateway.records()) + again - len(records), "what was acknowledged is not sent again"


def poisonous(log):
    return "/app/poison" in log.body


def dead_letters(gateway):
    file = gateway.journal / "export" / "backend" / "dead-letters.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def set_aside(t, answer):
    """One record is refused however it comes; all others must arrive."""
    collector = t.collector()
    gateway = exporting(t, collector, start=False)
    collector.answer = lambda *_: (503, {}, b"", NOTHING)
    gateway.start()
    ask(gateway, 12)
    ask(gateway, 1, "/app/poison")
    ask(gateway, 12)
    collector.answer = answer
    poison, = [seq for seq, record in enumerate(gateway.records()) if "/app/poison" in json.dumps(record)]
    complete(gateway, collector, missing={poison})
    letters = eventually(lambda: dead_letters(gateway), "one is set aside")
    assert [letter["seq"] for letter in letters] == [poison], letters
    assert letters[0]["record"]["request"]["path"] == "/app/poison" and "test: refused" in letters[0]["reason"], letters
    assert figure(gateway, "dead_letters") == 1
    told = eventually(lambda: [record for record in gateway.records() if record.get("event") == "export.rejected"], "the journal tells of it")
    assert [(e["destination"], e["count"], e["first"], e["last"]) for e in told] == [("backend", 1, poison, poison)], told
    assert "/app/poison" not in gateway.log(), "the operator's log tells no paths"
    return collector


def test_a_record_that_is_too_large_for_the_collector_is_set_aside(t):
    def small(logs, _):
        if len(logs) > 4 or any(map(poisonous, logs)):
            return 413, {}, b"test: refused", NOTHING
    set_aside(t, small)


def test_a_record_that_the_collector_cannot_take_is_found_in_its_batch(t):
    set_aside(t, lambda logs, _: (400, {}, b"test: refused", NOTHING) if any(map(poisonous, logs)) else None)


def test_partial_success_does_not_say_which(t):
    def partly(logs, _):
        bad = sum(map(poisonous, logs))
        return (200, {}, partial(bad), lambda log: not poisonous(log)) if bad else None
    collector = set_aside(t, partly)
    assert len(collector.got()) > len(collector.seqs()), "the others of the batch came again, with the same uid"


def test_a_destination_that_refuses_everything_loses_nothing(t):
    collector = t.collector()
    collector.answer = lambda *_: (400, {}, b"wrong door", NOTHING)
    gateway = exporting(t, collector)
    ask(gateway, 10)
    eventually(lambda: figure(gateway, "failures") > 3 and figure(gateway, "state") == 2, "it is an alarm")
    assert dead_letters(gateway) == [] and "wrong door" in gateway.log()
    collector.answer = None
    complete(gateway, collector)


def test_tls_with_a_certificate_and_a_token(t):
    folder = t.folder / "gateway"
    tls, received = None, []
    collector = None
    gateway = exporting(t, type("Later", (), {"url": "https://localhost:1"}), start=False, ca=CA, client_certificate=CLIENT, client_key=CLIENT_KEY,
                        headers_file="token", secrets={"token": "authorization: Bearer old\n"})
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / CA)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(folder / SERVER, folder / SERVER_KEY)
    collector = t.collector(tls)

    def guarded(_, headers):
        received.append(headers["authorization"])
        return None if received[-1] == "Bearer new" else (401, {}, b"who are you", NOTHING)
    collector.answer = guarded
    gateway.file.write_text(gateway.file.read_text().replace("https://localhost:1", f"https://localhost:{collector.port}"))
    gateway.start()
    ask(gateway, 5)
    eventually(lambda: len(received) > 3 and figure(gateway, "state") == 2, "a refused token is an alarm, and tried again")
    assert collector.got() == [] and "Bearer" not in gateway.log()
    (folder / "token").write_text("authorization: Bearer new\n")
    complete(gateway, collector)
    assert figure(gateway, "dead_letters") == 0


def test_requests_are_compressed_if_that_is_wanted(t):
    collector, seen = t.collector(), []

    def look(_, headers):
        seen.append((headers["content-encoding"], int(headers["content-length"])))
    collector.answer = look
    plain = exporting(t, collector)
    ask(plain, 30)
    complete(plain, collector)
    plain.stop()
    assert {encoding for encoding, _ in seen} == {None}, seen
    sent = sum(length for _, length in seen)

    # The same records again, from a cursor that was removed: compressed, every one of them.
    (plain.journal / "export" / "backend" / "cursor").unlink()
    text = plain.file.read_text()
    assert text.count('"endpoint" = "' + collector.url) == 1, text
    plain.file.write_text(text.replace('"endpoint" = "' + collector.url, '"compression" = "gzip", "endpoint" = "' + collector.url))
    seen.clear()
    collector.logs.clear()
    plain.start()
    complete(plain, collector)
    assert {encoding for encoding, _ in seen} == {"gzip"}, seen
    assert sum(length for _, length in seen) * 2 < sent, (seen, sent)

    # One that cannot read it: an alarm, and nothing is lost or set aside.
    collector.answer = lambda *_: (415, {}, b"no gzip here", NOTHING)
    ask(plain, 5)
    eventually(lambda: figure(plain, "state") == 2 and "no gzip here" in plain.log(), "it is an alarm")
    collector.answer = None
    complete(plain, collector)
    assert dead_letters(plain) == []


def test_checkpoints_at_the_backend_are_a_witness(t):
    collector = t.collector()
    gateway = exporting(t, collector)
    ask(gateway, 5)
    log = eventually(lambda: [c for c in collector.checkpoints() if c.attributes["tidegate.tree_size"] >= 10], "a checkpoint leaves")[0]
    seen = t.folder / "seen"
    seen.write_text(log.body)
    ask(gateway, 5)
    gateway.stop()
    vkey = gateway.journal / "tree" / "vkey"
    gateway.command("audit", "verify", "--journal", gateway.journal, "--vkey", vkey, "--checkpoint", seen)
    origin, size, _ = log.body.splitlines()[:3]
    assert (log.attributes["tidegate.log"], log.attributes["tidegate.tree_size"]) == (origin, int(size))
    assert all(log.attributes["tidegate.log"] == origin for log in collector.got()), "records name the log of the checkpoint"


def test_traces_metrics_and_logs_through_a_collector_of_others(t):
    tap = components.oteltap(COMPONENTS, t.folder / "tap")
    t.defer(tap.process.stop)
    # rotel compresses whatever it is told, and oteltap reads no gzip.
    middle = components.rotel_to(t.collector(onward=tap.url).url, COMPONENTS, t.folder / "rotel")
    t.defer(middle.process.stop)
    recorder = t.recorder()
    gateway = t.gateway(gateway_config([service_route()], services={"echo": {"endpoints": [recorder.url]}}, otlp=middle.url,
                                       changes={"audit.export": {"backend": {"endpoint": middle.url, "compression": "gzip", **QUICK}}}))
    record = gateway.request("GET", "/app/x")[1][RECORD_HEADER]

    def lines(key, wanted):
        found = []
        for line in tap.process.text().splitlines():
            if wanted in line and line.startswith("{"):
                found.append(json.loads(line))
        return found
    log = eventually(lambda: lines("log", f"{record}/1/decision"), "the decision arrives as a log record", 20)
    assert eventually(lambda: lines("log", f"{record}/1/outcome"), "so does its outcome", 20)
    spans = eventually(lambda: [line for line in lines("span", record) if "traceId" in line and "log.record.uid" not in json.dumps(line)], "the spans arrive", 20)
    eventually(lambda: lines("metric", "tidegate.audit.export.lag_records"), "the metrics arrive", 20)

    def marks(message):
        return {a["key"]: next(iter(a["value"].values()), None) for a in message["attributes"]}
    decision = marks(log[0])
    for span in spans:
        assert marks(span)["tidegate.leaf_index"] == decision["tidegate.leaf_index"], "span and record name the same leaf"
        assert marks(span)["tidegate.log"] == decision["tidegate.log"]
    assert log[0]["traceId"] == spans[0]["traceId"], "log record and span share the trace"
    gateway.stop()
    proof = gateway.folder / "proof"
    gateway.command("audit", "proof", record, "--journal", gateway.journal, "-o", proof)
    assert f"index {decision['tidegate.leaf_index']}" in proof.read_text(), "which is the one that the proof is about"

    # What the backend says that it has, held against the journal: nothing is missing. Without one of them, that one is.
    def reconciled(without=(), more=()):
        kept = [log for log in lines("log", "log.record.uid") if not any(uid in json.dumps(log) for uid in without)] + list(more)
        export = t.folder / "backend.json"
        export.write_text(json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": kept}]}]}))
        done = subprocess.run([binary(), "audit", "reconcile", "--journal", gateway.journal, "--export", export, "--output", "json"],
                              capture_output=True, text=True, timeout=60)
        return done.returncode, json.loads(done.stdout)
    # The event of the stop is the last to arrive.
    eventually(lambda: reconciled()[0] == 0, "the backend has what the journal has")
    lost = [f"{record}/1/decision", f"{record}/1/outcome"]
    code, found = reconciled(without=lost)
    assert code == 1 and [one["uid"] for one in found["missing"]["first"]] == lost and found["unknown"]["count"] == 0, found

    # The other way: something in the backend that the journal does not have, and something that it has otherwise.
    made_up = json.loads(json.dumps(log[0]).replace(record, record[:-4] + "beef"))
    code, found = reconciled(more=[made_up])
    assert code == 1 and found["missing"]["count"] == 0, found
    assert [one["uid"] for one in found["unknown"]["first"]] == [f"{record[:-4]}beef/1/decision"], found
    changed = json.loads(json.dumps(log[0]).replace("allow", "deny"))
    code, found = reconciled(without=lost[:1], more=[changed])
    assert code == 1 and [one["uid"] for one in found["differing"]["first"]] == lost[:1] and found["missing"]["count"] == 0, found
