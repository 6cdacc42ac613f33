"""A plan's time before its drafter is trained: llama.cpp under synthetic acceptance, predicted beside measured.

    python -m proofs_tests.benchmarks.synthetic [--tokens N] [--prompts N] [--rounds N]

Needs `make engines` and the real model of `make real`. The draft is the first layers of the target, whatever they say:
chance accepts. The cost is the models' configurations on this machine, held to steps of plain decoding and of drafts of
2 and 6 tokens, accepted at .75 a depth. For each of 12 settings (1, 3 or 5 drafts, acceptance .9 or .6 a depth, batch 1
or 4), none of which the cost was held to: a plan, its export to llama.cpp with ``--synthetic``, and `reader validate`
on what the server timed. A machine changes pace within minutes: all are run in turn, in an order of its own each round,
a plain server beside them decodes one text before and after each answer, each run is taken at the middle pace of
these, and each setting is what its middle run is, the longer one of two. Rounds are written as they are there, and not
run again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from optimizer.export import ExportOptions, export
from optimizer.imported_plan import ImportedStudy, plan_of
from proofs_tests.benchmarks._report import RESULTS, write_report
from proofs_tests.benchmarks.engines.worker import Worker
from reader_theory.cost.tabulated import MeasuredStep, cost_of_step
from reader_theory.documents import Cost, Plan
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.served import ServedRun, validate_served
from runtime.cli._predicted import served_by
from runtime.importers.benchmarks import read_benchmarks
from runtime.importers.prompts import read_prompt_file
from runtime.models.load import load_tokenizer
from runtime.models.text import encode_text

PROMPTS = Path("runtime/models/house/prompts/code.jsonl")
LAYERS, BATCHES = 3, (1, 4)
ASKED = ("tokens", "prompts", "threads")
BESIDE = 32
"""Tokens that the plain server reads, and as many that it decodes."""
DRAFTS = 1e9
"""So many that the planner takes the rates as they are."""


Paced = tuple[ServedRun, float]
"""A run, and seconds that the plain server beside it took for its text meanwhile."""


@dataclass(frozen=True)
class Cell:
    """Drafts, how many of them are accepted at each depth given all before, and requests at once."""

    drafts: int
    acceptance: float
    batch: int

    @property
    def rates(self) -> list[float]:
        return [self.acceptance**depth for depth in range(1, self.drafts + 1)]


HELD = tuple(Cell(drafts, 0.75 if drafts else 0.0, batch) for drafts, batch in product((0, 2, 6), BATCHES))
"""What the cost is held to."""
SETTINGS = tuple(Cell(*each) for each in product((1, 3, 5), (0.9, 0.6), BATCHES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("out/models/smollm2"))
    parser.add_argument("--tokens", type=int, default=128, help="of a text; a draft reads the prompt within it")
    parser.add_argument("--prompts", type=int, default=4, help="in a run; a multiple of 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", type=Path, default=Path(".venv-engines/bin/python"), help="that has xllamacpp")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    tokenizer = load_tokenizer(str(args.model))
    texts = [prompt.text for prompt in read_prompt_file(PROMPTS, limit=args.prompts).prompts]
    prompts = [encode_text(tokenizer, text).tolist() for text in texts]
    runs = held_runs(args)
    model = next(args.model.glob("*.gguf"))
    with tempfile.TemporaryDirectory() as scratch, server(args, model, "plain", 1) as beside:
        draft = first_layers(model, LAYERS, Path(scratch))
        for number in range(args.rounds):
            for cell in random.Random(number).sample((*HELD, *SETTINGS), len(HELD) + len(SETTINGS)):
                if len(runs.setdefault(cell, [])) <= number:
                    runs[cell].append(timed(args, prompts, cell, draft, beside))
            report(args, draft, prompts, runs, number + 1)


def held_runs(args: argparse.Namespace) -> dict[Cell, list[Paced]]:
    """Those of the file, where they were asked alike."""
    path = args.output / "synthetic.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    if not all(held.get(name) == getattr(args, name) for name in ASKED):
        return {}
    kept = {Cell(**each["cell"]): each["runs"] for each in held["runs"]}
    cells = [cell for cell in (*HELD, *SETTINGS) if cell in kept]
    return {cell: [(ServedRun(**run), pace) for run, pace in kept[cell]] for cell in cells}


def report(
    args: argparse.Namespace,
    draft: Path,
    prompts: Sequence[list[int]],
    runs: dict[Cell, list[Paced]],
    rounds: int,
) -> None:
    """Write what so many rounds say."""
    paces = [pace for each in runs.values() for _, pace in each]
    usual = statistics.median(paces)
    paced = {cell: [at_pace(run, usual / pace) for run, pace in each] for cell, each in runs.items()}
    middle = {cell: sorted(each, key=lambda run: run.step_s or 0.0)[len(each) // 2] for cell, each in paced.items()}
    cost = held_cost(args, draft, [(cell, middle[cell]) for cell in HELD])
    context = round(statistics.fmean(map(len, prompts)) + args.tokens / 2)
    rows = [row(cost, cell, middle[cell], context) for cell in SETTINGS]
    told = {name: [abs(each[name]) for each in rows] for name in ("step_error", "error")}
    facts = {"settings": len(rows), "rounds": rounds, "pace_spread": spread(paces)}
    for name, errors in told.items():
        facts |= {f"median_{name}": statistics.median(errors), f"worst_{name}": max(errors)}
    facts["median_spread"] = statistics.median(spread([run.step_s or 1.0 for run in each]) for each in paced.values())
    asked = {name: getattr(args, name) for name in ASKED}
    kept = [{"cell": asdict(cell), "runs": [(asdict(run), pace) for run, pace in each]} for cell, each in runs.items()]
    write_report("synthetic", {**facts, **asked, "rows": rows, "runs": kept}, args.output)
    print(json.dumps(facts), flush=True)


def spread(seconds: Sequence[float]) -> float:
    """The longest over the shortest, less one."""
    return max(seconds) / min(seconds) - 1


def at_pace(run: ServedRun, factor: float) -> ServedRun:
    """The run with its seconds multiplied."""
    assert run.step_s is not None, "timings tell steps"
    return replace(run, step_s=run.step_s * factor, tokens_per_s=run.tokens_per_s / factor)


def first_layers(model: Path, layers: int, folder: Path) -> Path:
    """A GGUF of the model's first layers, beside a configuration that says so; gives the GGUF."""
    import gguf

    reader = gguf.GGUFReader(model)
    path, count = folder / "draft.gguf", "llama.block_count"
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name == gguf.Keys.General.ARCHITECTURE or name.startswith("GGUF."):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        value = layers if name == count else field.contents()
        writer.add_key_value(name, value, field.types[0], sub_type=inner)
    kept = [t for t in reader.tensors if not t.name.startswith("blk.") or int(t.name.split(".")[1]) < layers]
    for tensor in kept:
        data = tensor.data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in kept:
        writer.write_tensor_data(tensor.data)
    writer.close()
    told = json.loads((model.parent / "config.json").read_text()) | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(told))
    return path


def server(args: argparse.Namespace, model: Path, method: str, batch: int) -> Worker:
    """A server of llama.cpp."""
    return Worker(args.python, "llama_worker.py", str(model), method, str(batch), str(args.threads))


def timed(args: argparse.Namespace, prompts: Sequence[list[int]], cell: Cell, draft: Path, beside: Worker) -> Paced:
    """One server, as `reader validate` reads its timings, and the plain one before and after each of its answers."""
    method, batch = "plain", cell.batch
    if cell.drafts:
        method = f"draft_simple:{cell.drafts}:{','.join(map(str, cell.rates))}:{draft}"

    def reference() -> float:
        (told,) = beside.generate([prompts[0][:BESIDE]], BESIDE, None)["timings"]
        return float(told["predicted_ms"]) / 1e3

    answers: list[dict[str, Any]] = []
    paces = [reference()]
    with server(args, next(args.model.glob("*.gguf")), method, batch) as worker:
        worker.generate(prompts[:batch], 8, None)
        for start in range(0, len(prompts) - batch + 1, batch):
            answers.append(worker.generate(prompts[start : start + batch], args.tokens, None))
            paces.append(reference())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "responses.jsonl"
        path.write_text("\n".join(json.dumps({"timings": each}) for answer in answers for each in answer["timings"]))
        (run,) = read_benchmarks([path], batch=batch)
    return run, statistics.fmean(paces)


def held_cost(args: argparse.Namespace, draft: Path, held: Sequence[tuple[Cell, ServedRun]]) -> Cost:
    """The configurations' cost on this machine, held to plain steps and to drafts of two lengths."""
    served = served_by(
        str(args.model), "this machine", draft=str(draft.parent / "config.json"), dtype="bfloat16", quantization="int4"
    )
    steps: list[MeasuredStep] = []
    for cell, run in held:
        assert run.step_s is not None, "timings tell steps"
        steps.append(MeasuredStep(cell.batch, run.context, 1.0 + cell.drafts, float(cell.drafts), run.step_s))
    contexts = sorted({max(round(step.context), 1) for step in steps})
    return cost_of_step(
        served.step, target=served.target, dtype=served.dtype, draft=served.draft, measured=steps, batches=BATCHES,
        contexts=contexts, max_nodes=max(cell.drafts for cell, _ in held),
    )  # fmt: skip


def row(cost: Cost, cell: Cell, run: ServedRun, context: int) -> dict[str, Any]:
    """One setting: planned, exported, and validated against its run, whose rates are those of the export."""
    plan = planned(cost, cell.rates, cell.batch, context)
    config = export(plan, "llama.cpp", "default", ExportOptions(batch=cell.batch, synthetic=True)).config
    told = [float(each) for each in config["spec-synth-rates"].split(",")]
    assert all(abs(one - other) < 1e-3 for one, other in zip(told, cell.rates, strict=True)), "the run is the export's"
    found = validate_served(plan, [run], workload="default", record="synthetic")
    compared = {each.quantity: each for each in found.comparisons}
    rate_row = compared["tokens_per_s"]
    return {
        **asdict(cell), "rates": told,
        **{f"predicted_{name}": each.predicted.value for name, each in compared.items()},
        **{f"measured_{name}": each.measured for name, each in compared.items()},
        "inside": rate_row.inside, "error": rate_row.relative_error, "step_error": compared["step_s"].relative_error,
    }  # fmt: skip


def planned(cost: Cost, rates: Sequence[float], batch: int, context: int) -> Plan:
    """The plan of one chain, accepted at these rates; taken whether it gains or not, as its time is what is asked."""
    accepted = [DRAFTS * rate for rate in rates]
    told = ImportedAcceptance.from_reached(
        [DRAFTS], [[DRAFTS, *accepted[:-1]]], [accepted], engine="llama.cpp", source="synthetic"
    )
    study = ImportedStudy(told, cost, "draft", len(rates))
    made = plan_of(study, [(batch, context)], new_tokens=1)
    return made.model_copy(update={"entries": (study.entry(batch, context, length=len(rates)),)})


if __name__ == "__main__":
    main()
