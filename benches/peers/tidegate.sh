# pb:scenarios s1h1 s1h2 s2rs s2es s2h2 s3down s3up s4d0 s4d5 s5 s6 s7
# pb:tls 1
# pb:aikey left in $PB_DIR/aikey: the gateway knows clients by keys of its own
#
# Tidegate as a peer of a side-by-side benchmark: one worker thread, everything governed.
# GATEWAY_BIN is the program. PB_AUDIT=required waits for fsync before a request goes on; the default best_effort waits for
# write alone. PB_TOKEN_CACHE=0 verifies every token anew, as if none came twice. PB_TELEMETRY=0 leaves out the OTLP sink,
# which runs on CPU PB_SINK_CPU (1), where the load is. PB_JOURNALS is a folder where journals stay: ext4 without a journal of its own
# passes over each inode that was freed within minutes, so a new tile takes a millisecond where the tiles of other runs were just deleted.
set -eu
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=${GATEWAY_BIN:?path of the tidegate program}
audit=${PB_AUDIT:-best_effort}
journal=journal; [ -z "${PB_JOURNALS:-}" ] || journal=$PB_JOURNALS/$$
scheme=http; [ "$PB_UPSTREAM_TLS" = 1 ] && scheme=https

# ---- policies: the shipped ones, what this benchmark permits, and 100 more that never apply -------------------------
mkdir -p policies keys
cp "$repo"/policies/*.cedarschema policies/
# Without credentials the leanest set that exists is measured: one permit for each kind of route. Governed, all.
[ "$PB_MODE" = plain ] || cp "$repo"/policies/*.cedar policies/
{
    # The tokens of this benchmark have their one role as a text, and teams are only ever taken from a list: so the role
    # is read as the tenant.
    if [ "$PB_MODE" = gov ]; then cat <<'CEDAR'
@id("bench-reader")
permit (principal, action == Tidegate::Action::"call", resource == Tidegate::Service::"upstream")
when { principal.tenant == "reader" && context.request.method == "GET" && context.request.path like "/api/*" };

@id("bench-admin")
permit (principal, action == Tidegate::Action::"call", resource == Tidegate::Service::"upstream")
when { principal.tenant == "admin" && context.request.path like "/admin/*" };
CEDAR
    else cat <<'CEDAR'
@id("bench-anyone-calls")
permit (principal == Tidegate::Workload::"anonymous", action == Tidegate::Action::"call", resource == Tidegate::Service::"upstream");

@id("bench-anyone-asks")
permit (principal == Tidegate::Workload::"anonymous", action == Tidegate::Action::"infer", resource == Tidegate::Model::"eu/mock");
CEDAR
    fi
    [ "$PB_MODE" = plain ] || for n in $(seq 80); do
        printf '@id("bench-team-%d")\npermit (principal in Tidegate::Team::"bench-%d", action, resource)\nwhen { context.data.level <= 1 };\n' "$n" "$n"
    done
    [ "$PB_MODE" = plain ] || for n in $(seq 20); do
        printf '@id("bench-blocked-%d")\nforbid (principal, action, resource)\nwhen { context.request.path like "/blocked-%d/*" };\n' "$n" "$n"
    done
} > policies/90-bench.cedar
python3 - "$repo/policies/entities.json" > policies/entities.json <<'PY'
import json, sys
uid = lambda kind, name: {"type": f"Tidegate::{kind}", "id": name}
entity = lambda kind, id, parents=(), **attrs: {"uid": uid(kind, id), "attrs": attrs, "parents": list(parents)}
shipped = json.load(open(sys.argv[1]))
more = [entity("Team", name) for name in (f"bench-{n}" for n in range(1, 81))]
more += [entity("Service", "upstream"), entity("Model", "eu/mock", [uid("Cluster", "eu")], name="mock")]
json.dump(shipped + more, sys.stdout, indent=1)
PY

# ---- who asks -------------------------------------------------------------------------------------------------------
umask 077
key="tgk_bench-client_$(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')"
printf '%s' "$key" > "$PB_DIR/aikey"
cat > keys.toml <<T
[[keys]]
id = "bench-client"
sha256 = "$(printf '%s' "$key" | sha256sum | cut -d' ' -f1)"
tenant = "bench"
kind = "workload"
teams = ["research"]
T

# ---- telemetry: every span is sent, to a sink that only reads. It leaves the session, so that its CPU time is not the
# gateway's, and ends itself once the gateway (which keeps this shell's pid) is gone. ---------------------------------
telemetry=''
if [ "${PB_TELEMETRY:-1}" = 1 ]; then
    cat > sink.py <<'PY'
import http.server, os, pathlib, sys, threading, time
class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()
def watch(pid):
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.2)
    os._exit(0)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
threading.Thread(target=watch, args=(int(sys.argv[1]),), daemon=True).start()
pathlib.Path("sink.part").write_text(str(server.server_address[1]))
os.rename("sink.part", "sink.port")
server.serve_forever()
PY
    setsid taskset -c "${PB_SINK_CPU:-1}" python3 sink.py $$ </dev/null >sink.log 2>&1 &
    until [ -s sink.port ]; do sleep 0.05; done
    telemetry="[telemetry]
otlp_endpoint = \"http://127.0.0.1:$(cat sink.port)\""
fi

# ---- configuration --------------------------------------------------------------------------------------------------
far="endpoints = [\"$scheme://127.0.0.1:$PB_UPSTREAM_PORT\"]
max_in_flight = 100000
http2 = \"never\""
[ "$scheme" = https ] && far="$far
ca = \"$PB_CA\"
server_name = \"$PB_UPSTREAM_SNI\""
open='identity = "none"'; [ "$PB_MODE" = plain ] || open='identity = "required"'
common="level = \"public\"
residency = [\"world\"]
audit = \"$audit\""

cat > tidegate.toml <<T
[gateway]
name = "bench"
workers = $PB_THREADS

[listen]
address = "$PB_HOST:$PB_LISTEN"

[listen.limits]
max_connections = 20000
max_connections_per_ip = 0

[listen.tls]
certificate = "$PB_CERT"
key = "$PB_KEY"
client_auth = "off"

[admin]
address = "127.0.0.1:0"

[identity]
api_keys = "keys.toml"

[[identity.issuers]]
issuer = "$PB_ISS"
audiences = ["$PB_AUD"]
algorithms = ["RS256", "ES256"]
jwks_file = "$PB_JWKS"
tenant_claim = "role"

[identity.cache]
entries = ${PB_TOKEN_CACHE:-100000}

[policy]
directory = "policies"

[audit]
directory = "$journal"

$telemetry

[clusters.eu]
models = ["mock"]
$far

[services.upstream]
$far

[[routes]]
name = "chat"
path = "/v1/chat/completions"
infer = { clusters = ["eu"] }
$open
$common

[[routes]]
name = "chat-without-pause"
path = "/d0/v1/chat/completions"
infer = { clusters = ["eu"] }
$open
$common

[[routes]]
name = "chat-with-pause"
path = "/d5/v1/chat/completions"
infer = { clusters = ["eu"] }
$open
$common

[[routes]]
name = "everything-else"
path = "/*"
service = "upstream"
max_body = "1GiB"
$open
$common
T

exec "$bin" serve --config tidegate.toml
