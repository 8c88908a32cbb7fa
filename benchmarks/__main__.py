"""``python -m benchmarks``: engines in process, then the service over HTTP, printed as docs/benchmarks.md."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import report

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=str(__doc__).partition(", printed")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all works")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.parent.name}/{PAGE.name}")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    sections = {
        "engines": ["--seconds", "0", "--sequences", "64"] if options.quick else [],
        "service": ["--seconds", "1"] if options.quick else [],
    }
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for name, flags in sections.items():
            # a process each: neither inherits the other's threads and memory
            file = Path(folder, f"{name}.json")
            command = [sys.executable, "-m", f"benchmarks.{name}", "--rounds", str(rounds), "--json", str(file), *flags]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            results[name] = json.loads(file.read_text())
    page = report.page(results["engines"], results["service"])
    if options.write:
        PAGE.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
