"""A minute of everything at once, as `make soak` runs for ten."""

import re
import subprocess
import sys
from pathlib import Path

KINDS = {"steady", "reader", "tensors", "hurried", "leaving", "bad", "malformed", "slow", "stranger", "burst", "reload"}


def test_a_minute_of_everything_at_once() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"^ *([\w ]+?)  +(\w[\w ]*?)  +([\d,]+)$", done.stdout, re.MULTILINE)
    assert {kind for kind, _, _ in counts} >= KINDS
    endings = {(kind, ending) for kind, ending, _ in counts}
    assert {("burst", "429"), ("hurried", "504"), ("malformed", "400"), ("old key", "401")} <= endings
    assert re.search(r" 0 not as they should be$", done.stdout.strip())
