"""The files under deploy/: hardened as promised, and accepted by the tools that read them."""
import configparser
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request

import components
from doubles import Script
from harness import COMPONENTS, ROOT, chat_route, gateway_config, service_route
from process import Skip, eventually

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "tidegate.service"
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


def test_releases_are_built_with_a_profile_that_the_compiler_reads(t):
    """The compiler only warns of a profile that it cannot read, and builds without."""
    profile = DEPLOY / "tidegate.profdata"
    broken = t.folder / "broken.profdata"
    broken.write_bytes(b"no profile at all" + profile.read_bytes())
    out = t.folder / "out.ll"

    def compiled(profile):
        argv = ["rustc", "--crate-type=lib", "--crate-name=one", "--emit=llvm-ir", f"-Cprofile-use={profile}", "-o", out, "-"]
        return subprocess.run(list(map(str, argv)), input="pub fn one() -> u8 { 1 }", capture_output=True, text=True, cwd=ROOT)
    assert (compiled(profile).returncode, compiled(profile).stderr) == (0, "")
    assert "invalid instrumentation profile" in compiled(broken).stderr
    # The script passes it to the compiler of every crate, if it is of this compiler and these dependencies.
    tree = t.folder / "tree"
    (tree / "deploy").mkdir(parents=True)
    for name in ("Cargo.toml", "Cargo.lock", "deploy/build", "deploy/tidegate.profdata"):
        shutil.copy(ROOT / name, tree / name)
    cargo = t.folder / "cargo"
    cargo.write_text('#!/bin/sh\n[ "$1" = -V ] && echo cargo 1 || echo "$RUSTFLAGS|$*"\n')
    cargo.chmod(0o755)
    environment = {**os.environ, "PATH": f"{t.folder}:{os.environ['PATH']}", "RUSTFLAGS": "-Cdebuginfo=1"}
    rustc = subprocess.run(["rustc", "-vV"], capture_output=True, check=True).stdout
    fits = hashlib.sha256(b"cargo 1\n" + rustc + (tree / "Cargo.toml").read_bytes() + (tree / "Cargo.lock").read_bytes()).hexdigest()

    def built(of):
        (tree / "deploy/tidegate.profdata.for").write_text(of + "\n")
        done = subprocess.run([tree / "deploy/build"], env=environment, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr
    plain = "build --release --locked --bin tidegate\n"
    assert built(fits) == (f"-Cdebuginfo=1 -Cprofile-use={tree}/deploy/tidegate.profdata|{plain}", "")
    said, told = built("of another")
    assert said == f"-Cdebuginfo=1|{plain}" and "without a profile" in told, (said, told)
    steps = instructions()
    assert any(name == "RUN" and argument.startswith("deploy/build ") for name, argument in steps)
    assert any(name == "COPY" and {"deploy/build", "deploy/tidegate.profdata", "deploy/tidegate.profdata.for"} <= set(argument.split()) for name, argument in steps)


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
    assert [copy.split()[-1] for copy in copied] == ["/usr/local/bin/tidegate", "/var/lib/tidegate"], "one file of ours, one empty folder"
    assert all("--from=build" in copy for copy in copied) and f"--chown={user}" in copied[1], copied
    assert "distroless" in images[1], "there is nothing in it to run but the gateway"


def test_what_is_copied_is_there(t):
    for name, arguments in instructions():
        if name == "COPY" and "--from" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), f"{source} is copied but does not exist"


# ---- Kubernetes ---------------------------------------------------------------------------------------------------

def rendered():
    """The manifests as `kubectl apply -k` would send them, and the folder of the tools that read them."""
    tools = components.install("kube", COMPONENTS)
    kubectl = tools / "bin" / "kubectl"
    kubectl.chmod(0o755)
    done = subprocess.run([kubectl, "kustomize", DEPLOY / "kubernetes"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = subprocess.run([sys.executable, "-c", "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"],
                            input=done.stdout, env={**os.environ, "PYTHONPATH": str(tools)}, capture_output=True, text=True, check=True)
    return done.stdout, {(one["kind"], one["metadata"]["name"]): one for one in json.loads(loaded.stdout)}, tools


def of_kind(manifests, kind):
    return [one for (its, _), one in manifests.items() if its == kind]


def test_kubernetes_base_fits_the_schema(t):
    text, manifests, tools = rendered()
    file = t.folder / "all.yaml"
    file.write_text(text)

    def validate(path):
        return subprocess.run([sys.executable, "-m", "kubernetes_validate", "--strict", path], env={**os.environ, "PYTHONPATH": str(tools)},
                              capture_output=True, text=True, timeout=120)
    done = validate(file)
    assert done.returncode == 0, done.stdout + done.stderr
    # That the check can fail: a word that no API has.
    wrong = t.folder / "wrong.yaml"
    wrong.write_text(text.replace("readOnlyRootFilesystem:", "readOnlyRoot:"))
    assert validate(wrong).returncode != 0

    assert len(of_kind(manifests, "PodDisruptionBudget")) == len(of_kind(manifests, "NetworkPolicy")) == 1
    stateful, = of_kind(manifests, "StatefulSet")
    pod = stateful["spec"]["template"]["spec"]
    container, = pod["containers"]
    user = dict(instructions())["USER"].split(":")[0]
    assert pod["securityContext"]["runAsNonRoot"] and str(pod["securityContext"]["runAsUser"]) == user
    assert pod["automountServiceAccountToken"] is False
    secured = container["securityContext"]
    assert secured["readOnlyRootFilesystem"] and not secured["allowPrivilegeEscalation"] and secured["capabilities"] == {"drop": ["ALL"]}
    assert pod["terminationGracePeriodSeconds"] > 120, "less than the longest default drain"
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
    # What is mounted is there, and its name is the one that kustomize gave it.
    maps = {one["metadata"]["name"] for one in of_kind(manifests, "ConfigMap")}
    assert {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume} == maps


def test_kubernetes_configuration_passes_check(t):
    """The configuration and the policies of the manifests, put where a pod would find them."""
    _, manifests, _ = rendered()
    gateway = t.gateway(gateway_config([service_route()], services={"echo": {"endpoints": ["http://127.0.0.1:9"]}}), start=False)
    folder = t.folder / "pod"
    texts = {}
    for one in of_kind(manifests, "ConfigMap"):
        texts.update(one["data"])
    (folder / "etc/tidegate-policies").mkdir(parents=True)
    (folder / "etc/tidegate-tls").mkdir()
    (folder / "etc/tidegate-keys").mkdir()
    for name, text in texts.items():
        if name != "tidegate.toml":
            (folder / "etc/tidegate-policies" / name).write_text(text)
    for name in ("server.pem", "server.key", "ca.pem"):
        shutil.copy(gateway.folder / "certs" / name, folder / "etc/tidegate-tls")
    shutil.copy(gateway.folder / "certs/ca.pem", folder / "etc/tidegate-keys/cluster-eu-ca.pem")
    key = folder / "etc/tidegate-keys/cluster-eu.key"
    key.write_text("sk-1")
    key.chmod(0o600)
    config = folder / "tidegate.toml"
    config.write_text(re.sub(r'"/(etc|var)/', lambda found: f'"{folder}/{found[1]}/', texts["tidegate.toml"]))
    gateway.command("check", "--config", config)


# ---- Prometheus and Grafana ---------------------------------------------------------------------------------------

def expressions():
    """Each (where, expression) of the alerts and of the dashboard, as Prometheus gets it."""
    rules = (DEPLOY / "prometheus" / "tidegate.rules.yaml").read_text()
    for block in re.split(r"\n\s+- alert: ", rules)[1:]:
        yield block.split("\n")[0], " ".join(re.search(r"expr: (.*?)\n\s+(?:for|labels):", block, re.S)[1].removeprefix("|").split())
    dashboard = json.loads((DEPLOY / "grafana" / "tidegate.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"].replace("$instance", ".*")


# A label that Prometheus gives, and what only a gateway with `[policy.remote]` tells.
ELSEWHERE = {"job", "tidegate_policy_source_state"}


def test_alerts_and_dashboard_ask_for_what_there_is(t):
    """A real Prometheus reads a real gateway: each expression is sound, and each metric and label that it names is there."""
    folder = components.install("prometheus", COMPONENTS)
    checked = subprocess.run([folder / "usr/bin/promtool", "check", "rules", DEPLOY / "prometheus" / "tidegate.rules.yaml"],
                             capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    upstream, collector = t.recorder(), t.collector()
    issuer, entry, secrets = t.issuer()
    config = gateway_config([chat_route(), service_route()], clusters={"eu": {"endpoints": [upstream.url], "models": ["m"]}},
                            services={"echo": {"endpoints": [upstream.url]}}, issuer=entry,
                            changes={"audit.export": {"main": {"endpoint": collector.url, "delay": "20ms"}}})
    gateway = t.gateway(config, secrets)
    prompt = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    upstream.scripts["/v1/chat/completions"] = Script([f"data: {usage}\n\n".encode(), b"data: [DONE]\n\n"])
    upstream.scripts["/v1/chat/completions"].go.release()
    asked = {"Authorization": f"Bearer {issuer.token()}", "Content-Type": "application/json"}
    assert gateway.request("POST", "/v1/chat/completions", prompt, asked)[0] == 200
    assert gateway.request("GET", "/app/a")[0] == 200
    assert gateway.request("GET", "/nowhere")[0] == 404
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as bare:
        bare.sendall(b"this is no TLS\r\n\r\n")
        while bare.recv(4096):
            pass
    # A change of the policies counts as a reload.
    policies = gateway.folder / "policies" / "tests.cedar"
    policies.write_text(policies.read_text() + "\n// changed\n")

    prometheus = components.prometheus(COMPONENTS, t.folder / "prometheus", f"127.0.0.1:{gateway.admin_port}",
                                       DEPLOY / "prometheus" / "tidegate.rules.yaml")

    def ask(path, **query):
        with urllib.request.urlopen(f"{prometheus.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]
    eventually(lambda: "tidegate_reloads_total" in ask("label/__name__/values"), "the gateway is read", 30)
    names, labels = set(ask("label/__name__/values")), set(ask("labels"))
    functions = {"min", "sum", "by", "rate", "increase", "max", "le", "offset", "or", "histogram_quantile", "changes", "up", "m", "h"}
    for where, expression in expressions():
        ask("query", query=expression)
        bare = re.sub(r'"[^"]*"', "", expression)
        used = set(re.findall(r"[a-z_][a-z_0-9]*", re.sub(r"\[[^]]*\]|offset \w+", "", bare))) - functions
        unknown = {word for word in used if word not in names and word not in labels and word not in ELSEWHERE}
        assert not unknown, f"{where}: {unknown} is not among what the gateway tells"
    loaded = ask("rules")["groups"][0]["rules"]
    assert len(loaded) >= 10 and all(rule["health"] != "err" for rule in loaded), loaded
