"""``make bench``: the regression suite, the best-known table, the pruning instance.

    python -m benchmarks                      small and real problems: some minutes
    python -m benchmarks --suite full         all of them: hours

Results go to benchmarks/output: JSON, Markdown tables and the picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import best_known, pruning_instance, regression

OUTPUT = Path(__file__).resolve().parent / "output"


def main() -> int:
    """Run the three benchmarks one after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--suite", default="small,real")
    parser.add_argument("--repeat", default="3")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="a folder")
    args = parser.parse_args()
    out = args.output
    regression.main(
        [
            *("--suite", args.suite, "--repeat", args.repeat),
            *("--output", f"{out / 'regression.json'}"),
            *("--table", f"{out / 'regression.md'}"),
            *("--picture", f"{out / 'regression.png'}"),
        ]
    )
    # The real problems are in that file already, unless the suite left them out.
    source = ["--from-file", f"{out / 'regression.json'}"]
    if not {"real", "full", "best_known"} & set(args.suite.split(",")):
        source = ["--output", f"{out / 'best_known.json'}"]
    best_known.main([*source, "--table", f"{out / 'best_known.md'}"])
    pruning_instance.main(
        [
            *("--output", f"{out / 'pruning_instance.json'}"),
            *("--table", f"{out / 'pruning_instance.md'}"),
        ]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
