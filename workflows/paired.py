"""Two groups of scored runs over the same splits: mean of each, and the paired difference with its standard error.

python workflows/paired.py RUNS_A… -- RUNS_B…
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from psptool.schemas.scores import Scores

MEASURES = ("top1", "top1_joint", "top1_motion", "top1_unseen")


def load(folders: list[str]) -> dict[str, Scores]:
    """Scores by split."""
    scores = [Scores.load(Path(folder) / "scores.json") for folder in folders]
    return {score.split: score for score in scores}


def row(measure: str, first: dict[str, Scores], second: dict[str, Scores]) -> str:
    """Both means with their standard deviations, and the mean difference with its standard error, in per cent."""
    a, b = ([100 * getattr(group[split], measure) for split in sorted(group)] for group in (first, second))
    differences = [y - x for x, y in zip(a, b, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    means = " | ".join(f"{statistics.mean(x):.1f} ± {statistics.stdev(x):.1f}" for x in (a, b))
    return f"| {measure} | {means} | {statistics.mean(differences):+.1f} ± {error:.1f} |"


def main(arguments: list[str]) -> int:
    """Print the table as Markdown."""
    if "--" not in arguments:
        print(__doc__, file=sys.stderr)
        return 2
    middle = arguments.index("--")
    first, second = load(arguments[:middle]), load(arguments[middle + 1 :])
    if first.keys() != second.keys() or len(first) < 2:
        print(
            f"need the same two or more splits on both sides: {sorted(first)}, {sorted(second)}",
            file=sys.stderr,
        )
        return 2
    methods = [sorted({score.method for score in group.values()}) for group in (first, second)]
    print(
        f"| {len(first)} draws, % | {' | '.join('/'.join(names) for names in methods)} | difference ± s.e. |"
    )
    print("|---|---|---|---|")
    for measure in MEASURES:
        print(row(measure, first, second))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
