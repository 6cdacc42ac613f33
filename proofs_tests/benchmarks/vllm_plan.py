"""Predicted beside measured in an engine that is not ours: vLLM on the CPU, from its own counters and step times.

    python -m proofs_tests.benchmarks.vllm_plan [--tokens N] [--prompts N] [--batch N ...] [--length K ...]

Needs `make engines` and the real model of `make real`. For n-gram and suffix drafting and plain decoding, batches of
1, 4 and 8, K of 2, 4 and 8: tokens a second with a full batch. Acceptance is imported from the counters of the longest
K at batch 1; the cost is predicted from the model's configuration and this machine, and held to the median steps of
plain decoding and of the longest K. All other cells are predictions. The chosen K is compared with the best measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.imported_plan import ImportedStudy
from proofs_tests.benchmarks._report import RESULTS, write_report
from proofs_tests.benchmarks.engines.worker import Worker
from reader_theory.cost.tabulated import MeasuredStep, cost_of_step
from reader_theory.documents.imported import ImportedAcceptance
from runtime.cli._predicted import served_by
from runtime.importers import read_acceptance
from runtime.importers.prompts import read_prompt_file
from runtime.models.load import load_tokenizer
from runtime.models.text import encode_text

PROMPTS = Path("runtime/models/house/prompts/code.jsonl")
METHODS = ("ngram", "suffix")


@dataclass(frozen=True)
class Cell:
    """One method, length and batch as measured.

    Attributes
    ----------
    tokens_per_step : float
        Of a row, over all its decode steps.
    step_s : float
        Median seconds of a step in which every row decoded.
    tokens_per_s : float
        Of the full batch.
    mean_tokens : float
        Tokens a row that a step computed.
    context : float
    """

    method: str
    length: int
    batch: int
    tokens_per_step: float
    step_s: float
    tokens_per_s: float
    mean_tokens: float
    context: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("out/models/smollm2"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--length", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", type=Path, default=Path(".venv-engines/bin/python"), help="that has vLLM")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    tokenizer = load_tokenizer(str(args.model))
    texts = [prompt.text for prompt in read_prompt_file(PROMPTS, limit=args.prompts).prompts]
    prompts = [encode_text(tokenizer, text).tolist() for text in texts]
    plain, _ = measured(args, "plain", 0, prompts)
    rows: list[dict[str, Any]] = []
    choices: list[dict[str, Any]] = []
    for method in METHODS:
        found = {length: measured(args, method, length, prompts) for length in sorted(args.length)}
        told = found[max(args.length)][1]
        cells = [cell for each, _ in found.values() for cell in each]
        held = [*plain, *(cell for cell in cells if cell.length == max(args.length))]
        study = predicted(args.model, method, told, held, max(args.length))
        rows += [_compared(study, cell, cell in held) for cell in [*plain, *cells]]
        choices += [_choice(study, batch, [*plain, *cells]) for batch in args.batch]
    errors = np.array([row["error"] for row in rows if not row["held_to"]])
    facts = {"median_error": float(np.median(np.abs(errors))) if errors.size else None,
             "worst_error": float(np.abs(errors).max()) if errors.size else None,
             "worst_regret": max(choice["regret"] for choice in choices)}  # fmt: skip
    path = write_report("vllm_plan", {**facts, "rows": rows, "choices": choices}, args.output)
    print(json.dumps(facts, indent=1), path)


def measured(
    args: argparse.Namespace, method: str, length: int, prompts: Sequence[list[int]]
) -> tuple[list[Cell], ImportedAcceptance | None]:
    """Cells of one server at every batch, and its acceptance at batch 1."""
    named = method if method == "plain" else f"{method}:{length}"
    options = (str(args.model), "float32", named, str(max(args.batch)), str(args.threads))
    cells: list[Cell] = []
    told: ImportedAcceptance | None = None
    with Worker(args.python, "vllm_worker.py", *options) as worker:
        worker.generate(prompts[:1], 8, None)
        for batch in sorted(args.batch):
            groups = [prompts[i : i + batch] for i in range(0, len(prompts) - batch + 1, batch)]
            before = worker.generate(prompts[:1], 1, None)["counters"]
            answers = [worker.generate(group, args.tokens, None) for group in groups]
            since = acceptance(before, answers[-1]["counters"]) if length else None
            told = told or since
            cells.append(_cell(method, length, batch, groups, answers, since))
    return cells, told


def acceptance(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> ImportedAcceptance:
    """What two scrapes say of the time between them."""
    first = {_series(metric): metric for metric in before}
    apart: list[dict[str, Any]] = []
    for metric in after:
        old = first.get(_series(metric), {})
        values: dict[str, Any] = {
            what: metric[what] - old.get(what, 0) for what in ("value", "count") if what in metric
        }
        if "values" in metric:
            earlier = old.get("values") or [0] * len(metric["values"])
            values["values"] = [now - then for now, then in zip(metric["values"], earlier, strict=True)]
        apart.append({**metric, **values})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.json"
        path.write_text(json.dumps(apart))
        return read_acceptance(path)


def _series(metric: dict[str, Any]) -> str:
    return json.dumps([metric["name"], metric["labels"]], sort_keys=True)


def _cell(
    method: str, length: int, batch: int, groups: Sequence[Sequence[list[int]]], answers: Sequence[dict[str, Any]],
    told: ImportedAcceptance | None,
) -> Cell:  # fmt: skip
    decoding = [step for answer in answers for step in answer["steps"][1:]]  # the first reads the prompts
    full = [seconds for seconds, rows in decoding if rows == batch]
    row_steps = sum(rows for _, rows in decoding)
    emitted = sum(sum(answer["counts"]) - len(answer["counts"]) for answer in answers)
    context = float(np.mean([len(p) for group in groups for p in group])) + np.mean(answers[0]["counts"]) / 2
    drafted = 0.0 if told is None or told.draft_tokens is None else told.draft_tokens / (told.row_steps or told.drafts)
    per_step, step_s = emitted / row_steps, float(np.median(full))
    return Cell(method, length, batch, per_step, step_s, batch * per_step / step_s, 1 + drafted, float(context))


def predicted(
    model: Path, method: str, told: ImportedAcceptance | None, held: Sequence[Cell], longest: int
) -> ImportedStudy:
    """The study of one method: cost held to the cells in `held`, acceptance of the longest chain."""
    assert told is not None, "a server that drafts counts acceptance"
    served = served_by(str(model), "this machine", draft=method, dtype="float32")
    points = [
        MeasuredStep(cell.batch, cell.context, cell.mean_tokens, float(cell.length > 0), cell.step_s) for cell in held
    ]
    contexts = sorted({max(round(cell.context), 1) for cell in held})
    cost = cost_of_step(
        served.step, target=served.target, dtype=served.dtype, looks_up=method, measured=points,
        batches=sorted({cell.batch for cell in held}), contexts=contexts, max_nodes=longest,
    )  # fmt: skip
    return ImportedStudy(told, cost, method, longest)


def _compared(study: ImportedStudy, cell: Cell, held: bool) -> dict[str, Any]:
    rate = study.rate(cell.length, cell.batch, cell.context)
    step_s = sum(study.terms(cell.length, cell.batch, cell.context).values())
    return {
        **asdict(cell), "method": study.drafter if cell.method == "plain" else cell.method, "held_to": held,
        "predicted_tokens_per_step": study.lengths[cell.length].tokens, "predicted_step_s": step_s,
        "predicted_tokens_per_s": rate, "error": rate / cell.tokens_per_s - 1,
    }  # fmt: skip


def _choice(study: ImportedStudy, batch: int, cells: Sequence[Cell]) -> dict[str, Any]:
    here = {cell.length: cell for cell in cells if cell.batch == batch}
    chosen = max(here, key=lambda length: study.rate(length, batch, here[length].context))
    best = max(here.values(), key=lambda cell: cell.tokens_per_s)
    return {
        "method": study.drafter, "batch": batch, "chosen": chosen, "best": best.length,
        "chosen_tokens_per_s": here[chosen].tokens_per_s, "best_tokens_per_s": best.tokens_per_s,
        "regret": 1 - here[chosen].tokens_per_s / best.tokens_per_s,
    }  # fmt: skip


if __name__ == "__main__":
    main()
