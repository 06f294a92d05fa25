"""The files under deploy/: hardened as promised, and accepted by the tools that read them."""
import configparser
import json
import re
import shlex
import shutil
import subprocess

from harness import ROOT
from process import Skip

UNIT = ROOT / "deploy" / "tidegate.service"
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
SERVE = ["serve", "--config", "/etc/tidegate/tidegate.toml"]


def unit():
    """Sections, each key with all of its values in order."""
    class Many(dict):
        def __setitem__(self, key, value):
            if isinstance(value, list) and key in self:
                self[key].extend(value)
            else:
                super().__setitem__(key, value)
    parser = configparser.RawConfigParser(dict_type=Many, strict=False, comment_prefixes=("#", ";"), delimiters=("=",))
    parser.optionxform = str
    parser.read(UNIT)
    return {name: {key: value.split("\n") for key, value in parser.items(name)} for name in parser.sections()}


def test_unit_is_hardened(t):
    service = unit()["Service"]
    program, *arguments = shlex.split(service["ExecStart"][0])
    assert program.endswith("/tidegate") and arguments == SERVE
    wanted = {
        "DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
        "PrivateDevices": "yes", "MemoryDenyWriteExecute": "yes", "RestrictNamespaces": "yes", "LockPersonality": "yes",
        "SystemCallArchitectures": "native", "CapabilityBoundingSet": "CAP_NET_BIND_SERVICE", "KillSignal": "SIGTERM",
        "ReadWritePaths": "/var/lib/tidegate", "UMask": "0077", "LimitCORE": "0",
    }
    wrong = {key: service.get(key) for key, value in wanted.items() if service.get(key) != [value]}
    assert not wrong, wrong
    assert service["SystemCallFilter"][0] == "@system-service" and service["SystemCallFilter"][1].startswith("~")
    assert int(service["TimeoutStopSec"][0]) > 120, "less than the longest default drain"


def test_unit_satisfies_systemd(t):
    if not shutil.which("systemd-analyze"):
        raise Skip("systemd-analyze is not on this machine")
    # Programs are looked for, so the copy names some that are there.
    text = re.sub(r"/usr/local/bin/tidegate", shutil.which("true"), UNIT.read_text())
    copy = t.folder / "tidegate.service"
    copy.write_text(text)
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
    complaints = [line for line in verified.stderr.splitlines() if "tidegate" in line]
    assert not complaints, complaints
    rated = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", copy], capture_output=True, text=True, timeout=60)
    assert rated.returncode == 0, rated.stdout[-1500:] + rated.stderr


def instructions():
    """(instruction, arguments) of the container file, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", CONTAINERFILE.read_text())
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_container_runs_as_nobody(t):
    steps = instructions()
    known = {"FROM", "RUN", "COPY", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD", "ENV", "ARG", "LABEL"}
    assert {name for name, _ in steps} <= known, steps
    images = [arguments.split()[0] for name, arguments in steps if name == "FROM"]
    assert len(images) == 2, "a build stage and a lean one to run"
    for image in images:
        tag = image.rsplit("/", 1)[1].partition(":")[2]
        assert tag and tag != "latest", f"{image} is not pinned"
    final = steps[max(at for at, (name, _) in enumerate(steps) if name == "FROM") + 1:]
    user, = [arguments for name, arguments in final if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"USER must be a number that is not root: {user}"
    order = [name for name, _ in final]
    assert "RUN" not in order[order.index("USER"):], "nothing is done after the user is dropped"
    one = dict(final)
    assert json.loads(one["ENTRYPOINT"]) == ["/usr/local/bin/tidegate"] and json.loads(one["CMD"]) == SERVE
    assert one["STOPSIGNAL"] == "SIGTERM"
    copied = [arguments for name, arguments in final if name == "COPY"]
    assert len(copied) == 1 and "--from=build" in copied[0], "the final image holds one file of ours"


def test_what_is_copied_is_there(t):
    for name, arguments in instructions():
        if name == "COPY" and "--from" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), f"{source} is copied but does not exist"
