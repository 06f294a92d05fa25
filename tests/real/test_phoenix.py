"""Spans in a backend that people look at. It is 850 MB of Python packages, so it is only installed when it is asked for."""
import json
import os
import subprocess
import sys

from harness import ROOT, binary
from process import Skip


def test_spans_are_shown_with_record_and_leaf(t):
    if os.environ.get("TIDEGATE_PHOENIX") != "1":
        raise Skip("Arize Phoenix takes 850 MB: set TIDEGATE_PHOENIX=1 to install it and run this")
    done = subprocess.run([sys.executable, ROOT / "deploy" / "phoenix.py", "--once"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          env={**os.environ, "TIDEGATE_BIN": str(binary())}, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    shown = json.loads(done.stdout)
    assert shown["spans"] > shown["records"] == 8 and not shown["without_leaf_index"], shown
