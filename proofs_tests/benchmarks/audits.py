"""Audits of released engines and of ours on the house pair, with controls that must fail; writes docs/audits.md.

python -m proofs_tests.benchmarks.audits                                       ours, transformers', llama.cpp, vLLM
python -m proofs_tests.benchmarks.audits --server NAME URL MODEL FOLDER        a server's as well, of a real model

llama.cpp and vLLM are audited where `make engines` has put them. Each row is written as it is there; one that the file
holds, of as many tokens, is not audited again: delete the file to begin anew.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers

from proofs_tests.benchmarks._report import RESULTS, write_report
from proofs_tests.benchmarks.engines.gguf_file import write_gguf
from proofs_tests.benchmarks.engines.worker import Worker
from proofs_tests.documents.documents_examples import entry, plan
from reader_theory.audit.suspects import SUSPECTS
from reader_theory.documents import Chain, policy_of
from reader_theory.trees import TokenTree
from runtime.audit.run import Audited, LawsOf, audit, planted
from runtime.audit.samplers import Sampler, assisted, engine_sampler, server
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.prompts import house_prompts, public_prompts
from runtime.models.house import house_folder
from runtime.models.load import load_model, load_tokenizer
from runtime.models.transformers import load_transformers

PARAMS = SamplingParams(temperature=1.0, max_new_tokens=8)
FILTERED = replace(PARAMS, temperature=0.8, top_k=20)
COOL = replace(PARAMS, temperature=0.8)
RULES = ("target_only", "chain", "block", "multi_round", "without_replacement", "traversal", "gumbel")
ERROR = 0.01
PLANTED = "planted: "
FIFTY = "a top-k of 50 beside"
"""No bug where the law has a top-k of 20."""
ROUNDING = 1e-3
"""Of another engine's float32."""
HOUSE = Path(__file__).parents[2]
DOCUMENT = HOUSE / "docs" / "audits.md"
PATHS = os.environ | {"PYTHONPATH": str(HOUSE)}


@dataclass(frozen=True)
class Case:
    """One engine and one way to sample; `fault` says that it must be found, `tolerance` is the engine's rounding."""

    name: str
    params: SamplingParams
    sampler: Sampler
    fault: bool | None = None
    tolerance: float = 1e-4
    version: str = ""


def others(python: Path, done: Container[str]) -> Iterator[Case]:
    """llama.cpp and vLLM, each in a process of its own, on the house target in float32."""
    if not python.exists():
        print(f"llama.cpp and vLLM are not audited: no {python} (make engines)", flush=True)
        return
    folder = house_folder("target")
    end = load_model(folder).end_tokens[0]
    with tempfile.TemporaryDirectory() as scratch:
        gguf = write_gguf(Path(folder), Path(scratch) / "target.gguf")
        policy = Chain(min_match=1, offset=4, factor=0, max_tokens=4)
        drafts = plan(entry(1, policy), draft=None).write(Path(scratch) / "plan.json")
        ours, whole = f"{drafts}:chat", {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        for name, method, params, samplers in (
            ("llama.cpp, sampling, filters off", "plain", PARAMS, whole),
            ("llama.cpp, sampling at 0.8, nothing else asked", "plain", COOL, {"temp": 0.8}),
            ("llama.cpp, its prompt lookup, filters off", "lookup:4", PARAMS, whole),
            ("llama.cpp, our drafts, filters off", f"ours:{ours}", PARAMS, whole),
        ):
            if name in done:
                continue
            with Worker(python, "llama_python_worker.py", str(gguf), method, "1", environment=PATHS) as worker:
                yield Case(
                    name, params, asking(worker, params, end, **samplers), None, ROUNDING, worker.about["version"]
                )
        for name, method, *mended in (
            ("vLLM, sampling", "plain"),
            ("vLLM, its ngram", "ngram:4"),
            ("vLLM, our drafts", f"ours:4:{ours}"),
            ("vLLM mended, its ngram", "ngram:4", "mended"),
            ("vLLM mended, our drafts", f"ours:4:{ours}", "mended"),
        ):
            if name in done:
                continue
            options = (str(folder), "float32", method, "8", "1", *mended)
            with Worker(python, "vllm_worker.py", *options, environment=PATHS) as worker:
                sampler = asking(worker, PARAMS, end, temperature=1.0)
                yield Case(name, PARAMS, sampler, None, ROUNDING, worker.about["version"])


def asking(worker: Worker, params: SamplingParams, end: int, **options: float) -> Sampler:
    """A worker as a sampler; vLLM's own generator goes on from call to call."""
    seeded = worker.about["engine"] != "vllm"

    def sample(prompts: Sequence[Any], seed: int) -> list[list[int]]:
        told = {**options, "seed": seed} if seeded else options
        return worker.generate([p.tolist() for p in prompts], params.max_new_tokens, end, **told)["tokens"]

    return sample


def cases(laws: dict[SamplingParams, LawsOf]) -> Iterator[Case]:
    """Ours by every rule, transformers' ways, and every planted bug."""
    target, draft = (load_model(house_folder(name)) for name in ("target", "draft"))
    own, small = (load_transformers(house_folder(name), torch.float32) for name in ("target", "draft"))
    for rule in RULES:
        asked = replace(FILTERED, verification=rule)
        engine = Engine(target, draft, policy=policy_of(TokenTree.chain(4)), max_batch=4)
        yield Case(f"ours, {rule}, chain of 4", FILTERED, engine_sampler(engine, asked), False)
    tree = policy_of(TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)]))
    for rule in ("target_only", "traversal"):
        engine = Engine(target, draft, policy=tree, max_batch=4)
        yield Case(
            f"ours, {rule}, tree of 5", FILTERED, engine_sampler(engine, replace(FILTERED, verification=rule)), False
        )
    lossy = Engine(target, draft, policy=policy_of(TokenTree.chain(4)), max_batch=4)
    yield Case(
        "ours, typical_lossy", FILTERED, engine_sampler(lossy, replace(FILTERED, verification="typical_lossy")), True
    )
    yield Case("transformers, sampling, nothing else asked", PARAMS, assisted(own, PARAMS))
    yield Case("transformers, sampling, top_k=0", PARAMS, assisted(own, PARAMS, top_k=0))
    yield Case("transformers, assisted, nothing else asked", PARAMS, assisted(own, PARAMS, assistant_model=small))
    yield Case("transformers, assisted, top_k=0", PARAMS, assisted(own, PARAMS, assistant_model=small, top_k=0))
    yield Case("transformers, assisted, T 0.8, top_k=20", FILTERED, assisted(own, FILTERED, assistant_model=small))
    yield Case(
        "transformers, prompt lookup, top_k=0", PARAMS, assisted(own, PARAMS, prompt_lookup_num_tokens=4, top_k=0)
    )
    for suspect in SUSPECTS:
        params = PARAMS if suspect.name == FIFTY else FILTERED
        yield Case(f"{PLANTED}{suspect.name}", params, planted(laws[params], suspect.name), True)


def row_of(case: Case, done: Audited) -> dict[str, Any]:
    finding = done.finding
    excluded = [p.name for p in done.powers if finding.lossless and p.tokens < finding.tokens / 2]
    return {
        "engine": case.name,
        "version": case.version or (transformers.__version__ if case.name.startswith("transformers") else ""),
        "temperature": case.params.temperature,
        "top_k": case.params.top_k,
        "lossless": finding.lossless,
        "must_be_found": case.fault,
        "tokens": finding.tokens,
        "found_after": finding.found_after,
        "log10_evidence": finding.evidence / math.log(10) if math.isfinite(finding.evidence) else None,
        "looks_like": None if finding.lossless else finding.likeliest,
        "excluded": excluded,
    }


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows, those that the file held first."""
    kept = args.output / "audits.json"
    held = json.loads(kept.read_text()) if kept.exists() else {}
    rows: list[dict[str, Any]] = held["rows"] if held.get("asked_tokens") == args.tokens else []
    done = {row["engine"] for row in rows}

    def audited(case: Case, laws: LawsOf, prompts: Sequence[Any]) -> None:
        if case.name in done:
            return
        found = audit(case.sampler, laws, prompts, tokens=args.tokens, error=ERROR, tolerance=case.tolerance)
        rows.append(row_of(case, found))
        print({name: value for name, value in rows[-1].items() if name != "excluded"}, flush=True)
        write_report("audits", {"error": ERROR, "asked_tokens": args.tokens, "rows": rows}, args.output)

    pair = [load_model(house_folder(name)) for name in ("target", "draft")]
    laws = {params: LawsOf(pair[0], params, pair[1]) for params in (PARAMS, FILTERED, COOL)}
    prompts = [p.tokens[-48:] for p in house_prompts(None, "fit", load_tokenizer(house_folder("target")), 1)]
    for case in chain(cases(laws), others(args.python, done)):
        audited(case, laws[case.params], prompts)
    for name, url, model, folder in args.server:
        target, tokenizer = load_model(folder), load_tokenizer(folder)
        asked = [p.tokens[-64:] for p in public_prompts("fit", tokenizer, ["chat", "code"], 1)]
        case = Case(name, PARAMS, server(url, model, PARAMS, target.end_tokens))
        audited(case, LawsOf(target, PARAMS), asked)
    return rows


PAGE = """# Audits of released engines

Each engine samples from the house target, and every token is held against the target's own law (`reader audit`). One
that is lossless is found guilty with probability at most {error:g}, however long one looks. Tokens: those after which
it was found, or all that were scored.

| engine | version | T | top-k | verdict | tokens | evidence | looks like |
|---|---|--:|--:|---|--:|--:|---|
{engines}

"Nothing else asked": the caller names the temperature alone, and an engine's own defaults come on top. transformers'
generation configurations say `top_k = 50` where the model's own does not say otherwise, with and without an assistant;
llama-cpp-python says top-k 40, top-p 0.95 and min-p 0.05. Where the law matters, ask for `top_k=0` of the one, and for
`top_k=0, top_p=1.0, min_p=0.0` of the other.

vLLM on a CPU without Triton drops what its `expand_kernel` writes, so that drafts of any method are verified at a
temperature of whatever lay in memory (issue 55005 of vllm-project/vllm, which the audit found on its own); greedy
requests and other devices are not concerned (docs/engines.md). "Mended": with a body of ours in its place, and nothing
else changed.

## Controls that must fail

Tokens drawn from the law of a bug on purpose: an audit that misses one would be no audit. At temperature 0.8 and a
top-k of 20, but for the top-k of 50, which changes nothing there: at temperature 1 and without filters.

| bug | found after | evidence | looks like |
|---|--:|--:|---|
{planted}

## Commands

```sh
python -m proofs_tests.benchmarks.audits
reader audit --target FOLDER --engine transformers
reader audit --target FOLDER --engine server --url http://127.0.0.1:8000/v1
```

The first writes this page, from `results/audits.json`, and goes on where it was stopped; llama.cpp and vLLM are there
after `make engines`. The last is for a server of one's own on loopback.
"""


def page(rows: list[dict[str, Any]]) -> str:
    """docs/audits.md."""
    engines, controls = list[str](), list[str]()
    for row in rows:
        power, name = row["log10_evidence"], row["engine"]
        evidence = "certain" if power is None else f"10^{power:.1f}"
        found, looks = row["found_after"] or row["tokens"], row["looks_like"] or ""
        if name.startswith(PLANTED):
            after = "missed" if row["lossless"] else found
            controls.append(f"| {name.removeprefix(PLANTED)} | {after} | {evidence} | {looks} |")
            continue
        verdict = "no fault found" if row["lossless"] else "**not lossless**"
        asked = f"{row['version']} | {row['temperature']:g} | {row['top_k'] or '-'}"
        engines.append(f"| {name} | {asked} | {verdict} | {found} | {evidence} | {looks} |")
    return PAGE.format(error=ERROR, engines="\n".join(engines), planted="\n".join(controls))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--server", nargs=4, action="append", default=[], metavar=("NAME", "URL", "MODEL", "FOLDER"))
    parser.add_argument("--python", type=Path, default=Path(".venv-engines/bin/python"), help="of `make engines`")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    DOCUMENT.write_text(page(run(args)), encoding="utf-8")


if __name__ == "__main__":
    main()
