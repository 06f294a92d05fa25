"""Honest callers beside an attack: a process of its own that asks at a steady pace, so that nothing in the test delays it but the machine.

`python honest.py PORT CA PATH RATE` prints, for each request, when it was due, how much later its answer was whole (both in seconds, of the
machine's monotonic clock) and its status. What was due while the gateway stalled counts as late too.
"""
import http.client
import math
import ssl
import sys
import time

from process import Process, eventually


class Honest:
    """Asks `rate` times a second until the block ends; `late` are the delays by the label of the time when they were due."""

    def __init__(self, gateway, path="/app/honest", rate=50):
        self._gateway, self._path, self._rate, self._spans, self._done = gateway, path, rate, [], []

    def __enter__(self):
        argv = [sys.executable, "-u", __file__, self._gateway.port, self._gateway.ca, self._path, self._rate]
        self._process = Process(argv, self._gateway.folder / "honest.err", stdout=self._gateway.folder / "honest")
        self._lines = open(self._process.stdout)
        self._process.ready(self._answers)
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._lines.close()

    def _answers(self):
        """All answers so far. A line is written at once, so there are no halves."""
        self._done += [(float(due), float(late), status) for due, late, status in map(str.split, self._lines)]
        return self._done

    def under(self, label, count, meanwhile=lambda: None):
        """Until so many requests were due and are answered; they go under the label. Calls `meanwhile` after each fifth."""
        began, until = time.monotonic(), time.monotonic() + 60
        while (seen := sum(due >= began for due, *_ in self._answers())) < count:
            assert time.monotonic() < until, f"{label}: {seen} of {count} honest requests answered in a minute"
            meanwhile()
            more = len(self._done) + 5
            eventually(lambda: len(self._answers()) >= more, f"honest requests are answered ({label})", 30)
        self._spans.append((began, time.monotonic(), label))

    def late(self):
        """The delays by label since the last call."""
        found, spans = {}, self._spans
        self._spans = []
        for due, late, status in self._answers():
            for began, ended, label in spans:
                if began <= due < ended:
                    assert status == "200", f"{label}: an honest request got {status}"
                    found.setdefault(label, []).append(late)
        return found


def p99(seconds):
    return sorted(seconds)[math.ceil(len(seconds) * 0.99) - 1]


def main(port, ca, path, rate):
    context, connection, due = ssl.create_default_context(cafile=ca), None, time.monotonic()
    while True:
        time.sleep(max(0, due - time.monotonic()))
        connection = connection or http.client.HTTPSConnection("localhost", int(port), timeout=30, context=context)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException) as error:
            status, connection = type(error).__name__, None
        sys.stdout.write(f"{due} {time.monotonic() - due} {status}\n")
        due += 1 / int(rate)


if __name__ == "__main__":
    main(*sys.argv[1:])
