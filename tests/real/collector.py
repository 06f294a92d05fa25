"""An OTLP/HTTP collector for tests that keeps every log record, span and metric it is sent, and misbehaves when it is told to.

It decodes with the messages of the `opentelemetry-proto` package, which are not ours. `harness.otlp_messages()` first.
"""
import gzip
import http.server
import socket
import threading
import urllib.request
from dataclasses import dataclass

from process import free_port


@dataclass
class Log:
    """One log record as it arrived."""
    uid: str
    name: str
    body: str
    trace: str
    attributes: dict
    resource: dict

    @property
    def seq(self):
        return self.attributes["tidegate.seq"]


def plain(value):
    """An `AnyValue` as Python has it."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def attributes(pairs):
    return {pair.key: plain(pair.value) for pair in pairs}


def logs_of(body):
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    request = ExportLogsServiceRequest.FromString(body)
    found = []
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                marks = attributes(record.attributes)
                found.append(Log(marks["log.record.uid"], record.event_name, plain(record.body), record.trace_id.hex(),
                                 marks, attributes(resource.resource.attributes)))
    return found


def partial(rejected, message="test: refused"):
    """The body of an answer that says that some were refused, and not which."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = rejected
    answer.partial_success.error_message = message
    return answer.SerializeToString()


class Collector:
    """`answer(logs, headers)` may give (status, headers, body, keep) in place of a plain 200; `keep` says which of the
    records are kept. `onward` is a receiver that gets everything too, without gzip."""

    def __init__(self, tls=None, onward=None):
        self._lock, self._tls, self._server, self._onward = threading.Lock(), tls, None, onward
        self.port, self.answer = free_port(), None      # not an ephemeral one: it must be free again after a stop
        self.logs, self.requests, self.signals = [], 0, {}
        self.start()

    @property
    def url(self):
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def start(self):
        """Listens, after a stop on the same port again."""
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers["content-encoding"] == "gzip":
                    body = gzip.decompress(body)
                status, headers, answer = collector.take(self.path, self.headers, body)
                self.send_response(status)
                for name, value in {"content-type": "application/x-protobuf", "content-length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, allow_reuse_address = True, True

            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.open = set()

            def get_request(self):
                connection, peer = super().get_request()
                self.open.add(connection)
                return connection, peer

            def finish_request(self, request, peer):
                if collector._tls:
                    request = collector._tls.wrap_socket(request, server_side=True)
                super().finish_request(request, peer)

            def handle_error(self, *_):
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        """Gone, with every connection."""
        server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()
            for connection in server.open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def take(self, path, headers, body):
        if self._onward:
            request = urllib.request.Request(self._onward + path, body, {"content-type": headers["content-type"]})
            with urllib.request.urlopen(request, timeout=10) as taken:
                return taken.status, {}, taken.read()
        if path != "/v1/logs":
            with self._lock:
                self.signals[path] = self.signals.get(path, 0) + 1
            return 200, {}, b""
        logs = logs_of(body)
        with self._lock:
            self.requests += 1
        told = self.answer and self.answer(logs, headers)
        status, more, answer, keep = told or (200, {}, b"", lambda log: True)
        with self._lock:
            self.logs += [log for log in logs if keep(log)]
        return status, more, answer

    def got(self):
        """The records, without checkpoints."""
        with self._lock:
            return [log for log in self.logs if log.name != "tidegate.audit.checkpoint"]

    def checkpoints(self):
        with self._lock:
            return [log for log in self.logs if log.name == "tidegate.audit.checkpoint"]

    def seqs(self):
        return {log.seq for log in self.got()}


NOTHING = (lambda log: False)
