"""Audits of released engines and of ours on the house pair, with controls that must fail; writes docs/audits.md.

python -m proofs_tests.benchmarks.audits                                       ours and transformers'
python -m proofs_tests.benchmarks.audits --server NAME URL MODEL FOLDER        a server's as well, of a real model
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.audit.suspects import SUSPECTS
from reader_theory.documents import policy_of
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
RULES = ("target_only", "chain", "block", "multi_round", "without_replacement", "traversal", "gumbel")
ERROR = 0.01
DOCUMENT = Path(__file__).parents[2] / "docs" / "audits.md"


@dataclass(frozen=True)
class Case:
    """One engine and one way to sample; `fault` says that it must be found."""

    name: str
    params: SamplingParams
    sampler: Sampler
    fault: bool | None = None


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
        yield Case(f"planted: {suspect.name}", FILTERED, planted(laws[FILTERED], suspect.name), True)


def row_of(case: Case, done: Audited) -> dict[str, Any]:
    finding = done.finding
    excluded = [p.name for p in done.powers if finding.lossless and p.tokens < finding.tokens / 2]
    return {
        "engine": case.name,
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


def run(tokens: int, servers: list[list[str]]) -> list[dict[str, Any]]:
    pair = [load_model(house_folder(name)) for name in ("target", "draft")]
    laws = {params: LawsOf(pair[0], params, pair[1]) for params in (PARAMS, FILTERED)}
    prompts = [p.tokens[-48:] for p in house_prompts(None, "fit", load_tokenizer(house_folder("target")), 1)]
    rows = []
    for case in cases(laws):
        rows.append(row_of(case, audit(case.sampler, laws[case.params], prompts, tokens=tokens, error=ERROR)))
        print(rows[-1], flush=True)
        write(rows)
    for name, url, model, folder in servers:
        target, tokenizer = load_model(folder), load_tokenizer(folder)
        asked = [p.tokens[-64:] for p in public_prompts("fit", tokenizer, ["chat", "code"], 1)]
        sampler = server(url, model, PARAMS, target.end_tokens)
        rows.append(
            row_of(
                Case(name, PARAMS, sampler), audit(sampler, LawsOf(target, PARAMS), asked, tokens=tokens, error=ERROR)
            )
        )
        print(rows[-1], flush=True)
        write(rows)
    return rows


def write(rows: list[dict[str, Any]], folder: Path = RESULTS) -> None:
    write_report("audits", {"error": ERROR, "rows": rows}, folder)


def page(rows: list[dict[str, Any]], versions: str) -> str:
    """docs/audits.md."""
    lines = [
        "# Audits",
        "",
        "Each engine is sampled, and every token held against the target's own law (`reader audit`). One that is",
        f"lossless is found guilty with probability at most {ERROR:g}, however long one looks. {versions}",
        "",
        "| engine | T | top-k | verdict | tokens | evidence | looks like |",
        "|---|--:|--:|---|--:|--:|---|",
    ]
    for row in rows:
        verdict = "no fault found" if row["lossless"] else "not lossless"
        power = row["log10_evidence"]
        lines.append(
            f"| {row['engine']} | {row['temperature']:g} | {row['top_k'] or '-'} | {verdict} | "
            f"{row['found_after'] or row['tokens']} | {'certain' if power is None else f'10^{power:.1f}'} | "
            f"{row['looks_like'] or ''} |"
        )
    lines += [
        "",
        "Rows called planted draw from the law of a bug on purpose: an audit that misses one would be no audit.",
        "",
        "    python -m proofs_tests.benchmarks.audits",
        "    reader audit --engine server --url http://127.0.0.1:8000/v1 --target FOLDER",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--server", nargs=4, action="append", default=[], metavar=("NAME", "URL", "MODEL", "FOLDER"))
    args = parser.parse_args()
    import transformers

    rows = run(args.tokens, args.server)
    DOCUMENT.write_text(page(rows, f"transformers {transformers.__version__}."), encoding="utf-8")


if __name__ == "__main__":
    main()
