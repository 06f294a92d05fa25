"""Other people's attack tools and TLS scanners against the gateway, as they come out of their packages. docs/security.md has what they say."""
import csv
import json
import re
import shutil
import subprocess
import sys
import time

import components
from doubles import Bulk
from harness import COMPONENTS, gateway_config, service_route
from process import Process, Skip, connections_to, eventually

SLOW = 200                    # connections of each slow attack


def scan(argv, env, seconds=90):
    """Runs a scanner to its end and gives what it says."""
    done = subprocess.run([str(a) for a in argv], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    return done.stdout + done.stderr


def test_h2load(t):
    env = components.tool("h2load", COMPONENTS)
    gateway, _ = t.echo_gateway()
    for connections, streams in (10, 10), (1, 100):
        said = scan(["h2load", "-n", 2000, "-c", connections, "-m", streams, gateway.url + "/app/x"], env)
        print("    ", f"{connections} connections of {streams} streams:", re.search(r"finished in .*", said)[0], flush=True)
        assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in said and "status codes: 2000 2xx" in said, said
        assert "TLSv1.3" in said and "Application protocol: h2" in said, said


def test_slowhttptest(t):
    """Slow heads (slowloris), slow bodies and slow readers at the same time: all are cut, and the service is there all the while."""
    env = components.tool("slowhttptest", COMPONENTS)
    upstream = Bulk(32 << 20)
    t.defer(upstream.close)
    config = gateway_config([service_route()], services={"echo": {"endpoints": [upstream.url]}}, changes={
        "listen.limits": {"max_connections_per_ip": 0, "header_timeout": "3s", "idle_timeout": "3s"}, "gate": {"body_idle": "1s"}})
    gateway = t.gateway(config)
    t.defer(gateway.process.kill)
    attacks = {"H": ["-H", "-i", 1], "B": ["-B", "-i", 2], "X": ["-X", "-n", 1, "-z", 5, "-w", 1, "-y", 512]}
    running, began = {}, time.monotonic()
    for name, flags in attacks.items():
        argv = ["slowhttptest", "-c", SLOW, "-r", 100, "-l", 60, "-p", 5, "-x", 24, "-g", "-o", t.folder / name, *flags, "-u", gateway.url + "/app/x"]
        running[name] = Process(argv, t.folder / f"{name}.log", env)
        t.defer(running[name].kill)
    for name in "H", "B":
        assert running[name].wait(40) == 0 and "No open connections left" in running[name].text(), running[name].text()[-1000:]
        print(f"     slowhttptest -{name}: {most_connected(t, name)} of {SLOW} connected at most, all closed after {took(began)}", flush=True)
    # Who reads five bytes a second does not learn for an hour that the other side has gone, so the gateway's side is looked at.
    eventually(lambda: connections_to(gateway.port, of_server=True) < 5, "the slow readers are cut", 30)
    print(f"     slowhttptest -X: {most_connected(t, 'X')} of {SLOW} connected at most, all cut after {took(began)}", flush=True)
    assert gateway.request("HEAD", "/app/x")[0] in (200, 502)


def took(began):
    return f"{time.monotonic() - began:.0f} s"


def most_connected(t, name):
    """The most connections that an attack had at once, from its report; the service must have been there in each second of it."""
    with open(t.folder / f"{name}.csv") as file:
        rows = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows and all(row["Service Available"] for row in rows[1:]), rows
    return max(row["Connected"] for row in rows)


def test_sslyze(t):
    folder = components.install("sslyze", COMPONENTS)
    gateway, _ = t.echo_gateway()
    report = t.folder / "sslyze.json"
    said = scan([sys.executable, "-m", "sslyze", "--mozilla_config=intermediate", "--early_data", f"--json_out={report}", f"127.0.0.1:{gateway.port}"],
                {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"})
    complaints = re.findall(r"^ {8}\* (\w+):", said.partition("COMPLIANCE AGAINST")[2], re.M)
    assert complaints == ["certificate_path_validation"], said[-3000:]        # our authority is no public one; that is all
    found = json.loads(report.read_text())["server_scan_results"][0]["scan_result"]
    assert all(part["status"] in ("COMPLETED", "NOT_SCHEDULED") for part in found.values()), {k: v["status"] for k, v in found.items()}
    suites = {name[:-14]: [s["cipher_suite"]["name"] for s in part["result"]["accepted_cipher_suites"]]
              for name, part in found.items() if name.endswith("_cipher_suites")}
    assert not any(suites[old] for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")), suites
    assert len(suites["tls_1_3"]) == 3 and suites["tls_1_2"] and all("_ECDHE_" in name for name in suites["tls_1_2"]), suites
    renegotiation = found["session_renegotiation"]["result"]
    assert not renegotiation["is_vulnerable_to_client_renegotiation_dos"] and renegotiation["supports_secure_renegotiation"], renegotiation
    assert not found["tls_1_3_early_data"]["result"]["supports_early_data"], "early data can be replayed"
    print(f"     sslyze: Mozilla's intermediate profile holds, except {complaints}; {suites['tls_1_2'] + suites['tls_1_3']}", flush=True)


def test_testssl(t):
    for program in ("openssl", "hexdump"):
        if not shutil.which(program):
            raise Skip(f"testssl.sh needs {program}")
    env = components.tool("testssl", COMPONENTS)
    gateway, _ = t.echo_gateway()
    report = t.folder / "testssl.json"
    said = scan(["testssl", "-n", "none", "--fast", "--warnings", "off", "--color", 0, "--jsonfile", report, "-p", "-S", f"127.0.0.1:{gateway.port}"],
                {**env, "TESTSSL_INSTALL_DIR": str(COMPONENTS / "testssl" / "etc" / "testssl")}, 150)
    found = {entry["id"]: (entry["severity"], entry["finding"]) for entry in json.loads(report.read_text())}
    assert "scanTime" in found and "Done" in said, said[-2000:]
    for version in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert found[version][1] == "not offered", found[version]
    assert "offered" in found["TLS1_2"][1] and "final" in found["TLS1_3"][1] and found["ALPN_HTTP2"][1].startswith("h2"), found
    bad = {name for name, (severity, _) in found.items() if severity in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL")}
    # A development certificate: its authority is not public, and it names neither a revocation list nor a responder.
    assert bad <= {"cert_chain_of_trust", "cert_revocation"}, {name: found[name] for name in bad}
    print(f"     testssl.sh -p -S: {len(found)} findings, none above INFO except {sorted(bad)}", flush=True)
