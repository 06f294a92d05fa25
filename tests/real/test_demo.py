"""The tour: `tidegate demo --once`, whose table must equal the journal."""
import re
import subprocess

from harness import allowed, binary, kind, records_of

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_the_table_equals_the_journal(t):
    folder = t.folder / "demo"
    done = subprocess.run([binary(), "demo", "--once", "--dir", folder], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {UUID.search(line)[0]: line for line in done.stdout.splitlines() if UUID.search(line)}
    assert len(rows) >= 10, done.stdout
    records = records_of(folder / "journal")
    verdicts = {record["id"]: kind(record) == "decision" and allowed(record)
                for record in records if kind(record) in ("decision", "refusal")}
    assert set(rows) == set(verdicts), (set(rows) ^ set(verdicts), done.stdout)
    for row, line in rows.items():
        said = re.search(r"\b(allow|permit|deny|denied|refus)", line.lower())
        assert said and (said[1] in ("allow", "permit")) == verdicts[row], (line, verdicts[row])


def test_its_configuration_is_a_valid_one(t):
    folder = t.folder / "demo"
    subprocess.run([binary(), "demo", "--once", "--dir", folder], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=True)
    done = subprocess.run([binary(), "check", "--config", folder / "tidegate.toml"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("policies", "certs", "keys", "journal", "store"):
        assert (folder / name).is_dir(), name
