"""Processes, ports and waiting. Only what was started here is ever signalled, and only by its own process group."""
import contextlib
import os
import random
import signal
import socket
import subprocess
import time


class Skip(Exception):
    """A test that this machine cannot run, and why. Never raised because the gateway misbehaves."""


def eventually(check, what, seconds=10.0):
    """Polls until `check()` is true and gives its value; the only way in which a test waits."""
    end = time.monotonic() + seconds
    pause = 0.005
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


_given = set()


def free_port():
    """A loopback port below the ephemeral range, so no outgoing connection takes it."""
    while True:
        port = random.randint(20000, 32000)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


def accepts(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def connections_to(port, of_server=False):
    """How many connections to a loopback port the clients, or the server, have not yet let go of."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    end = 1 if of_server else 2
    return sum(row[end].endswith(f":{port:04X}") and row[3] in ("01", "08") for row in rows)       # established; closed by the other side alone


_started = []


def end_all():
    """Ends whatever of the started processes is still there."""
    for process in _started:
        process.kill()
    _started.clear()


class Process:
    """A child in a process group of its own, its output in a file."""

    def __init__(self, argv, log, env=None, cwd=None, stdout=None):
        self.argv, self.log, self.stdout = [str(a) for a in argv], log, stdout or log
        with open(self.stdout, "ab") as out, open(self.log, "ab") as err:
            self._child = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd,
                env={**os.environ, **(env or {})}, start_new_session=True)
        _started.append(self)

    @property
    def pid(self):
        return self._child.pid

    @property
    def code(self):
        """The exit code, or None while it runs."""
        return self._child.poll()

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def memory(self, what="VmRSS"):
        """Bytes in memory now, or with `VmHWM` at most since `forget_peak`."""
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith(what + ":"))

    def cpu(self):
        """Seconds of processor time that it has used."""
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self):
        with open(f"/proc/{self.pid}/clear_refs", "w") as file:
            file.write("5")

    def signal(self, number):
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def wait(self, seconds):
        return self._child.wait(seconds)

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait(10)

    def stop(self, grace=5.0):
        """SIGTERM, then SIGKILL for what is left of the group."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(grace)
        return self.kill()

    def ready(self, check, seconds=60.0):
        """Waits until `check()` holds; an early exit is reported with the end of the log."""
        def look():
            if self.code is not None:
                raise AssertionError(f"{self.argv[0]} left with {self.code} at start:\n{self.text()[-2000:]}")
            with contextlib.suppress(OSError):
                return check()
        try:
            return eventually(look, f"{self.argv[0]} is ready", seconds)
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.text()[-2000:]}") from None
