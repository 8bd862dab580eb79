"""`python -m benchmarks`: runs every benchmark and prints its figures as ratios of one run."""

from __future__ import annotations

from benchmarks import aggregation, calls, negation


def main() -> None:
    """Runs the benchmarks one after another."""
    for benchmark in (aggregation, negation, calls):
        for line in benchmark.figures():
            print(line)


if __name__ == "__main__":
    main()
