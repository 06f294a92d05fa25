#!/usr/bin/env python3
"""Shows Tidegate's spans in Arize Phoenix: installs it, starts it, sends it traffic of the demo, and takes a picture.

  deploy/phoenix.py                          until Ctrl-C; prints where to look
  deploy/phoenix.py --once                   ends when Phoenix has the spans
  deploy/phoenix.py --once --screenshot FILE and a picture of them (needs Chromium: on the path, or --chromium FILE)

Needs Python 3.10 or newer with venv, and target/debug/tidegate or target/release/tidegate (or TIDEGATE_BIN). Phoenix is 850 MB of
Python packages; they go into target/components/phoenix, pinned by deploy/phoenix.requirements.txt. Nothing else is installed, all
listens on 127.0.0.1, and all that was started ends with the script. Exit code 0: shown; 1: a span is not as it should be; 3: could not run.
"""
import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = Path(__file__).with_name("phoenix.requirements.txt")
HOME = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "components" / "phoenix"
START = 900      # seconds that the first start of Phoenix may take: it makes its database


class Failed(Exception):
    """It could not run; says what to do."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def program():
    """The gateway."""
    names = [os.environ.get("TIDEGATE_BIN"), HOME.parents[1] / "debug" / "tidegate", HOME.parents[1] / "release" / "tidegate"]
    for name in filter(None, names):
        if Path(name).exists():
            return str(Path(name).resolve())
    raise Failed("no `tidegate` in target/: run `cargo build`, or set TIDEGATE_BIN")


def installed():
    """The Python that has Phoenix; installs it on first use."""
    python, stamp = HOME / "bin" / "python", HOME / "installed"
    if stamp.exists() and stamp.read_text() == PINS.read_text():
        return python
    say("installing Phoenix, 850 MB, which takes some minutes")
    shutil.rmtree(HOME, ignore_errors=True)
    for argv in ([sys.executable, "-m", "venv", HOME],
                 [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", PINS]):
        done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{' '.join(map(str, argv))} failed:\n{done.stderr[-2000:]}")
    stamp.write_text(PINS.read_text())
    return python


def free_ports(count):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def start(stack, argv, log, **env):
    """A process of ours that ends with the script."""
    with open(log, "ab") as out:
        child = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=log.parent,
                                 env={**os.environ, **env}, start_new_session=True)

    def end():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    stack.callback(end)
    return child


def wait(check, what, child, log, seconds):
    """Until `check` gives something; the end of the process is reported."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if found := check():
                return found
        if child.poll() is not None or time.monotonic() > until:
            raise Failed(f"{what} did not come about:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def gateway(stack, work, phoenix):
    """The demo, for its clusters and keys, and a gateway of its configuration that sends spans to Phoenix. Gives its port."""
    demo, log = work / "demo", work / "demo.log"
    child = start(stack, [program(), "demo", "--dir", demo], log)
    wait(lambda: "as expected" in log.read_text(), "the demo's tour", child, log, 120)
    lines = (demo / "tidegate.toml").read_text().splitlines()
    text = "\n".join('address = "127.0.0.1:0"' if line.startswith("address = ") else line for line in lines)
    text = text.replace('directory = "journal"', 'directory = "journal-phoenix"').replace('name = "demo"', 'name = "border-1"', 1)
    (demo / "phoenix.toml").write_text(f'{text}\n[telemetry]\notlp_endpoint = "{phoenix}"\nmetrics_interval = "1h"\n')
    log = work / "gateway.log"
    child = start(stack, [program(), "serve", "--config", demo / "phoenix.toml"], log)

    def listening():
        for line in log.read_text().splitlines():
            if line.startswith("{") and (entry := json.loads(line)).get("event") == "listening" and entry["listener"] == "data":
                return int(entry["address"].rsplit(":", 1)[1])
    return demo, wait(listening, "the gateway's start", child, log, 30)


def traffic(demo, port):
    """Requests of several people, allowed and denied; gives the ids of their records."""
    tls = ssl.create_default_context(cafile=demo / "certs" / "ca.pem")

    def ask(who, path, body=None, **headers):
        token = (demo / "tokens" / f"{who}.jwt").read_text().strip()
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"https://localhost:{port}{path}", data, {
            "authorization": f"Bearer {token}", "content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}})
        try:
            answer = urllib.request.urlopen(request, context=tls, timeout=30)
        except urllib.error.HTTPError as refused:
            answer = refused
        with answer:
            answer.read()
            return answer.headers["tidegate-record"], answer.status

    def chat(model, words, **more):
        return {"model": model, "messages": [{"role": "user", "content": words}], **more}
    return [
        ask("research", "/v1/chat/completions", chat("tide-small", "When is high tide?")),
        ask("research", "/v1/chat/completions", chat("tide-large", "Tell me of the moon", stream=True)),
        ask("research", "/v1/embeddings", {"model": "tide-embed", "input": "ebb and flow"}),
        ask("marketing", "/v1/chat/completions", chat("tide-small", "A slogan for the harbour")),
        ask("clinical", "/confidential/v1/chat/completions", chat("tide-small", "Summarise the trial"), tidegate_purpose="care"),
        ask("marketing", "/confidential/v1/chat/completions", chat("tide-small", "Summarise the trial")),
        ask("research", "/us/v1/chat/completions", chat("tide-small", "EU data"), tidegate_residency="EU"),
        ask("agent", "/lake/clinical/trials/2026.csv"),
    ]


def spans(phoenix):
    """All spans of the gateway that Phoenix has, by their record's id: the trace of each, and its attributes."""
    found = {}
    for span in fetch(f"{phoenix}/v1/projects/default/spans?limit=200")["data"]:
        marks = span["attributes"]
        if record := marks.get("tidegate.record"):
            found.setdefault(record, []).append((span["context"]["trace_id"], marks))
    return found


def picture(chromium, url, file):
    """What a person sees there."""
    with tempfile.TemporaryDirectory() as profile:
        argv = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}", "--window-size=1500,900",
                "--virtual-time-budget=20000", f"--screenshot={file.resolve()}", url]
        done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)
    if done.returncode or not file.exists():
        raise Failed(f"Chromium took no picture:\n{done.stderr[-1000:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end when Phoenix has the spans")
    parser.add_argument("--screenshot", type=Path, metavar="FILE", help="write a picture (PNG) of the spans")
    parser.add_argument("--chromium", metavar="FILE", help="the browser for it")
    options = parser.parse_args()
    chromium = options.chromium or shutil.which("chromium") or shutil.which("google-chrome")
    if options.screenshot and not chromium:
        raise Failed("no Chromium on the path for --screenshot: install it, or name it by --chromium")
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-phoenix-")))
        port, grpc = free_ports(2)
        phoenix, log = f"http://127.0.0.1:{port}", work / "phoenix.log"
        child = start(stack, [installed(), "-m", "phoenix.server.main", "serve"], log, PHOENIX_WORKING_DIR=str(work / "phoenix"),
                      PHOENIX_HOST="127.0.0.1", PHOENIX_PORT=str(port), PHOENIX_GRPC_PORT=str(grpc), PHOENIX_TELEMETRY_ENABLED="false")
        say("waiting for Phoenix; its first start takes half a minute or more")
        wait(lambda: fetch(f"{phoenix}/v1/projects"), "Phoenix's start", child, log, START)
        demo, border = gateway(stack, work, phoenix)
        asked = traffic(demo, border)
        records = {record for record, _ in asked}
        seen = wait(lambda: (found := spans(phoenix)).keys() >= records and found, "every record id on a span in Phoenix", child, log, 60)
        bad = [record for record in records if not all("tidegate.leaf_index" in marks for _, marks in seen[record])]
        print(json.dumps({"records": len(records), "spans": sum(map(len, seen.values())), "without_leaf_index": bad,
                          "statuses": [status for _, status in asked], "url": phoenix}))
        if options.screenshot:
            project = next(p["id"] for p in fetch(f"{phoenix}/v1/projects")["data"] if p["name"] == "default")
            trace, _ = seen[asked[0][0]][0]
            picture(chromium, f"{phoenix}/projects/{project}/traces/{trace}", options.screenshot)
            say(f"wrote {options.screenshot}")
        if not options.once:
            say(f"look at {phoenix} - Ctrl-C ends all")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
        return 1 if bad else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))      # so that what was started is ended
    try:
        sys.exit(main())
    except Failed as error:
        say(f"deploy/phoenix.py: {error}")
        sys.exit(3)
