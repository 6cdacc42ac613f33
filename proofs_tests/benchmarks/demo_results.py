"""Keep what a run of `reader demo` compared, as one JSON document for the README's table and figure.

python -m proofs_tests.benchmarks.demo_results out/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

from proofs_tests.benchmarks._report import write_report
from reader_theory.documents import Plan, Validation

if __name__ == "__main__":
    results = []
    for part in ("house", "inflated"):
        folder = Path(sys.argv[1]) / part
        plan, checked = Plan.read(folder / "plan.json"), Validation.read(folder / "validation.json")
        rows = [c.model_dump() | {"inside": c.inside, "error": c.relative_error} for c in checked.comparisons]
        facts = {"target": plan.target, "dtype": plan.dtype, "temperature": plan.temperature}
        results.append({**facts, "comparisons": rows, "stamp": checked.stamp.model_dump(), "regret": []})
    print(write_report("demo", {"results": results}))
