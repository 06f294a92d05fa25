"""A steady load of numbered requests, and what became of each."""
import http.client
import threading


class Load:
    """Threads that each keep one connection busy; `answered` are the paths for which a 200 came back whole, `other` those
    with another status, `broken` those for which nothing did."""

    def __init__(self, gateway, threads=4, prefix="/app/load"):
        self.answered, self.other, self.broken, self._gateway, self._prefix = [], [], [], gateway, prefix
        self._stop, self._next, self._lock = threading.Event(), 0, threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _path(self):
        with self._lock:
            self._next += 1
            return f"{self._prefix}/{self._next}"

    def _work(self):
        connection = None
        while not self._stop.is_set():
            path = self._path()
            try:
                connection = connection or self._gateway.connection(seconds=10)
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                (self.answered if answer.status == 200 else self.other).append((path, answer.status))
                if answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException):      # killed or not yet up: exactly what some tests bring about
                self.broken.append(path)
                connection = None
                self._stop.wait(0.01)
