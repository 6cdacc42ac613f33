"""A plan's time before its drafter is trained: llama.cpp under synthetic acceptance, predicted beside measured.

    python -m proofs_tests.benchmarks.synthetic [--tokens N] [--prompts N] [--settings N]

Needs `make engines` and the real model of `make real`. The draft is the first layers of the target, whatever they say:
chance accepts. The cost is the models' configurations on this machine, held to steps of plain decoding and of drafts of
2 and 6 tokens that are never accepted. Then, for each of 12 settings (1, 3 or 5 drafts, acceptance .9 or .6 a depth,
batch 1 or 4): a plan, its export to llama.cpp with ``--synthetic``, its run, and `reader validate` on what the server
timed. None of the 12 is among what the cost was held to. Each is written as it is there; one that the file holds, of as
many tokens, is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
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
LAYERS, BATCHES, HELD = 3, (1, 4), (2, 6)
SETTINGS = tuple(product((1, 3, 5), (0.9, 0.6), BATCHES))
ASKED = ("tokens", "prompts", "threads")
DRAFTS = 1e9
"""So many that the planner takes the rates as they are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("out/models/smollm2"))
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--prompts", type=int, default=8, help="in a run; a multiple of 4")
    parser.add_argument("--settings", type=int, default=len(SETTINGS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", type=Path, default=Path(".venv-engines/bin/python"), help="that has xllamacpp")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    tokenizer = load_tokenizer(str(args.model))
    texts = [prompt.text for prompt in read_prompt_file(PROMPTS, limit=args.prompts).prompts]
    prompts = [encode_text(tokenizer, text).tolist() for text in texts]
    rows = held_rows(args)
    done = {(row["drafts"], row["acceptance"], row["batch"]) for row in rows}
    left = [setting for setting in SETTINGS[: args.settings] if setting not in done]
    with tempfile.TemporaryDirectory() as scratch:
        draft = first_layers(next(args.model.glob("*.gguf")), LAYERS, Path(scratch))
        cost = held_cost(args, draft, prompts)
        for setting in left:
            rows.append(row(args, draft, prompts, cost, *setting))
            errors = [abs(each["error"]) for each in rows]
            facts = {"settings": len(rows), "median_error": statistics.median(errors), "worst_error": max(errors)}
            asked = {name: getattr(args, name) for name in ASKED}
            write_report("synthetic", {**facts, **asked, "rows": rows}, args.output)
            print(json.dumps(facts | {"setting": setting}), flush=True)


def held_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Those of the file, where they were asked alike."""
    kept = args.output / "synthetic.json"
    held = json.loads(kept.read_text()) if kept.exists() else {}
    return held["rows"] if all(held.get(name) == getattr(args, name) for name in ASKED) else []


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


def timed(
    args: argparse.Namespace, prompts: Sequence[list[int]], batch: int, drafting: tuple[Path, Sequence[float]] | None
) -> ServedRun:
    """One server at one batch, as `reader validate` reads its timings."""
    method = "plain"
    if drafting is not None:
        draft, rates = drafting
        method = f"draft_simple:{len(rates)}:{','.join(map(str, rates))}:{draft}"
    options = (str(next(args.model.glob("*.gguf"))), method, str(batch), str(args.threads))
    with Worker(args.python, "llama_worker.py", *options) as worker:
        worker.generate(prompts[:batch], 8, None)
        groups = [prompts[i : i + batch] for i in range(0, len(prompts) - batch + 1, batch)]
        answers = [worker.generate(group, args.tokens, None) for group in groups]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "responses.jsonl"
        path.write_text("\n".join(json.dumps({"timings": each}) for answer in answers for each in answer["timings"]))
        (run,) = read_benchmarks([path], batch=batch)
    return run


def held_cost(args: argparse.Namespace, draft: Path, prompts: Sequence[list[int]]) -> Cost:
    """The configurations' cost on this machine, held to plain steps and to drafts that are never accepted."""
    served = served_by(
        str(args.model), "this machine", draft=str(draft.parent / "config.json"), dtype="bfloat16", quantization="int4"
    )
    steps: list[MeasuredStep] = []
    for batch in BATCHES:
        for length in (0, *HELD):
            run = timed(args, prompts, batch, (draft, [0.0] * length) if length else None)
            assert run.step_s is not None, "timings tell steps"
            steps.append(MeasuredStep(batch, run.context, 1.0 + length, float(length), run.step_s))
    contexts = sorted({max(round(step.context), 1) for step in steps})
    return cost_of_step(
        served.step, target=served.target, dtype=served.dtype, draft=served.draft, measured=steps, batches=BATCHES,
        contexts=contexts, max_nodes=max(HELD),
    )  # fmt: skip


def row(
    args: argparse.Namespace,
    draft: Path,
    prompts: Sequence[list[int]],
    cost: Cost,
    length: int,
    rate: float,
    batch: int,
) -> dict[str, Any]:
    """One setting: planned, exported, run and validated."""
    rates = [rate**depth for depth in range(1, length + 1)]
    plan = planned(cost, rates, batch, round(statistics.fmean(map(len, prompts)) + args.tokens / 2))
    config = export(plan, "llama.cpp", "default", ExportOptions(batch=batch, synthetic=True)).config
    told = [float(each) for each in config["spec-synth-rates"].split(",")]
    run = timed(args, prompts, batch, (draft, told))
    found = validate_served(plan, [run], workload="default", record="synthetic")
    compared = {each.quantity: each for each in found.comparisons}
    rate_row = compared["tokens_per_s"]
    return {
        "drafts": length, "acceptance": rate, "batch": batch, "rates": told,
        **{f"predicted_{name}": each.predicted.value for name, each in compared.items()},
        **{f"measured_{name}": each.measured for name, each in compared.items()},
        "inside": rate_row.inside, "error": rate_row.relative_error,
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
