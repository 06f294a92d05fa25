"""The tour: `tidegate demo --once`, whose table must equal the journal."""
import re
import subprocess

from harness import allowed, binary, kind, records_of

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_the_table_equals_the_journal(t):
    folder = t.folder / "demo"
    done = subprocess.run([binary(), "demo", "--once", "--dir", folder], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {UUID.search(line)[0]: line for line in done.stdout.splitlines() if line.startswith("│") and UUID.search(line)}
    assert len(rows) >= 10, done.stdout
    records = records_of(folder / "journal")
    verdicts = {record["id"]: kind(record) == "decision" and allowed(record)
                for record in records if kind(record) in ("decision", "refusal")}
    assert set(rows) == set(verdicts), (set(rows) ^ set(verdicts), done.stdout)
    for row, line in rows.items():
        said = re.search(r"\b(allow|permit|deny|denied|refus)", line.lower())
        assert said and (said[1] in ("allow", "permit")) == verdicts[row], (line, verdicts[row])


def test_what_is_restricted_leaves_sealed_and_the_journal_proves_it(t):
    folder = t.folder / "demo"
    done = subprocess.run([binary(), "demo", "--once", "--dir", folder], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    sealed = [record for record in records_of(folder / "journal") if kind(record) == "decision" and record.get("protection") == "sealed"]
    assert {record["resource"]["id"] for record in sealed} == {"haven/tide-small", "patients"}, sealed
    opened = [record["opened"]["message_id"] for record in records_of(folder / "far" / "journal") if kind(record) == "decision"]
    assert opened == [record["seal"]["message_id"] for record in sealed if record["resource"]["id"] == "haven/tide-small"]
    # What the table prints under itself: the wire, and the check of the journal, which is true.
    assert "phrases of prompt and answer looked for, none found" in done.stdout
    said = re.search(r"journal: each of its (\d+) records is the one that was signed\n  tidegate (audit verify .*)", done.stdout)
    assert said and int(said[1]) > len(sealed), done.stdout
    checked = subprocess.run([binary(), *said[2].split()], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0 and "verified" in checked.stdout, checked
    # The job's key opens what the store holds in the clear; nobody else's does.
    key = folder / "keys" / "scanner-answer.key"
    assert len(key.read_bytes()) == 32 and key.stat().st_mode & 0o777 == 0o600


def test_its_configuration_is_a_valid_one(t):
    folder = t.folder / "demo"
    subprocess.run([binary(), "demo", "--once", "--dir", folder], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=True)
    done = subprocess.run([binary(), "check", "--config", folder / "tidegate.toml"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("policies", "certs", "keys", "journal", "store"):
        assert (folder / name).is_dir(), name
