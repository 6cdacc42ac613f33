"""`reader audit`: is an engine lossless?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import ExitCode, output_path, progress_bars, show_rows
from runtime.loopback import loopback_opener

if TYPE_CHECKING:
    from runtime.audit.run import Audited
    from runtime.audit.samplers import Sampler
    from runtime.cli._models import Models
    from runtime.engine.sampling import SamplingParams

__all__ = ["audit"]

TAKES = {"ours": {"verification", "drafts"}, "transformers": {"drafts"}, "server": {"url", "served"}}
"""Engines, and the options that are theirs alone."""
DEFAULTS = {"served": "", "verification": "chain", "drafts": 4}
OPTIONS = {"served": "served-model"}


def audit(
    target: options.Target = None,
    draft: options.Draft = None,
    engine: Annotated[str, typer.Option(help="ours, transformers (assisted generation), or server.")] = "ours",
    url: Annotated[str | None, typer.Option(help="Of a server of OpenAI's completions on loopback.")] = None,
    served: Annotated[str, typer.Option("--served-model", help="The target as the server calls it.")] = "",
    verification: Annotated[str, typer.Option(help="Rule of our own engine.")] = "chain",
    drafts: Annotated[int, typer.Option(min=1, help="Drafts a step, of our engine and of transformers.")] = 4,
    prompts: options.Prompts = None,
    limit: options.Limit = 1,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the law that should be sampled.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0)] = 0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 1.0,
    new_tokens: Annotated[int, typer.Option(min=1, help="Of each text: short ones see the same prefixes again.")] = 16,
    tokens: Annotated[int, typer.Option(min=100, help="Most tokens that are scored.")] = 20_000,
    error: Annotated[float, typer.Option(help="Chance at most that a lossless engine is found guilty.")] = 0.01,
    tolerance: Annotated[float, typer.Option(help="Rounding of the engine: 1e-4 in float32, 0.05 in bfloat16.")] = 1e-4,
    plant: Annotated[str | None, typer.Option(help="Audit a planted bug instead, as a control that must fail.")] = None,
    seed: options.Seed = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write as well.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Sample from an engine, and hold every token against the target's own law, with one error budget.

    Ends when the law is found wrong (exit code 3) or the tokens are used up; then says which known bugs it would have
    found. Give the draft as well where it is known: bugs of verification are then told apart.

    Example: reader audit --target Qwen/Qwen3-0.6B --engine server --url http://127.0.0.1:8000/v1
    """
    if output is not None:
        output_path(output, ".json")
    from reader_theory.audit.evidence import Evidence
    from runtime.cli._models import load_models, load_prompt_tokens, named

    _check(engine, url=url or "", plant=plant, served=served, verification=verification, drafts=drafts)
    known = _plantable(bool(named(target, draft)[1]))
    require(
        plant is None or plant in known,
        "`--plant` must name a known bug",
        got=repr(plant),
        fix=f"One of: {'; '.join(known)}.",
    )
    Evidence(error=error, tolerance=tolerance)
    from runtime.audit.run import LawsOf, planted
    from runtime.audit.run import audit as run
    from runtime.engine.sampling import SamplingParams
    from runtime.measure.record import models_of

    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=new_tokens,
        verification=verification if engine == "ours" else "target_only",
    )  # fmt: skip
    with progress_bars() as progress:
        models = load_models(target, draft, "float32", progress)
        small = next(iter(models_of(models.drafts).values()), None)
        laws = LawsOf(models.target, params, small)
        chosen = load_prompt_tokens(prompts, models.tokenizer, workloads=None, split="fit", limit=limit)
        asked = [prompt.tokens for prompt in chosen]
        sampler = planted(laws, plant) if plant else _sampler(engine, models, params, drafts, url or "", served)
        done = run(sampler, laws, asked, tokens=tokens, error=error, tolerance=tolerance, seed=seed, progress=progress)
    told = _told(done, error)
    if output is not None:
        from reader_theory.documents.base import write_atomically

        write_atomically(output, (json.dumps(told, indent=1, default=str) + "\n").encode())
    _show(done, told, as_json=as_json)
    if not done.finding.lossless:
        raise typer.Exit(ExitCode.NOT_MET)


def _check(engine: str, *, url: str, plant: str | None, **given: str | int) -> None:
    """Refuse what cannot be audited, and options that the engine does not take, before anything is loaded."""
    require(
        engine in TAKES and (engine != "server" or bool(url)),
        f"`--engine` must be one of {', '.join(TAKES)}, a server with its `--url`",
        got=engine if engine not in TAKES else "no url",
        fix="For example --engine server --url http://127.0.0.1:8000/v1.",
    )
    changed = {name for name, value in given.items() if value != DEFAULTS[name]} | ({"url"} if url else set())
    takes = set[str]() if plant is not None else TAKES[engine]
    told = f"a planted bug, instead of {engine}" if plant is not None else f"--engine {engine}"
    require(
        changed <= takes and (plant is None or engine == "ours"),
        "each option must be one of the engine that is audited",
        got=f"{', '.join(f'--{OPTIONS.get(name, name)}' for name in sorted(changed - takes))} with {told}",
        fix="Leave the others out: they would change nothing.",
    )
    if url:
        loopback_opener(url, "http://127.0.0.1:8000/v1")


def _plantable(drafted: bool) -> list[str]:
    from reader_theory.audit.suspects import SUSPECTS

    return [suspect.name for suspect in SUSPECTS if drafted or not suspect.needs_draft]


def _sampler(engine: str, models: Models, params: SamplingParams, drafts: int, url: str, served: str) -> Sampler:
    from reader_theory.documents import policy_of
    from reader_theory.documents.policy import Chain
    from reader_theory.trees import TokenTree
    from runtime.audit.samplers import assisted, engine_sampler, server
    from runtime.cli._models import source_of
    from runtime.engine.engine import Engine
    from runtime.measure.record import models_of

    if engine == "server":
        return server(url, served or models.names[0], params, models.target.end_tokens)
    if engine == "ours":
        small = next(iter(models_of(models.drafts).values()), None)
        chain: Any = Chain(min_match=1, factor=4, max_tokens=drafts)
        policy = chain if small is None else policy_of(TokenTree.chain(drafts))
        return engine_sampler(Engine(models.target, small, policy=policy), params)
    import torch

    from runtime.models.transformers import load_transformers

    own = load_transformers(source_of(models.names[0]), torch.float32)
    if not models.drafts:
        return assisted(own, params, prompt_lookup_num_tokens=drafts)
    assistant = load_transformers(source_of(next(iter(models.names[1].values()))), torch.float32)
    assistant.generation_config.num_assistant_tokens = drafts
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    return assisted(own, params, assistant_model=assistant)


def _told(done: Audited, error: float) -> dict[str, Any]:
    finding = done.finding
    return {
        "verdict": "no fault found" if finding.lossless else "not lossless",
        "error": error, "tokens": finding.tokens, "found_after": finding.found_after,
        "log10_evidence": finding.evidence / math.log(10), "needed": -math.log10(error),
        "looks_like": None if finding.lossless else finding.likeliest,
        "worst_prefix": None if finding.lossless else finding.worst_prefix,
        "impossible_tokens": finding.impossible,
        "would_have_found": [
            {
                "bug": power.name, "distance": power.distance,
                "after_tokens": None if math.isinf(power.tokens) else math.ceil(power.tokens),
                "excluded": finding.lossless and power.tokens < finding.tokens / 2,
            }
            for power in done.powers
        ],
    }  # fmt: skip


def _show(done: Audited, told: dict[str, Any], *, as_json: bool) -> None:
    rows = told.pop("would_have_found")
    show_rows(rows, as_json=as_json, title="known bugs, were they in four of five tokens", facts=told)
    if as_json:
        return
    finding = done.finding
    print(
        f"{told['verdict']}: evidence 10^{told['log10_evidence']:.2f} after {finding.tokens} tokens, "
        f"10^{told['needed']:.2f} would find it"
    )
    if not finding.lossless:
        print(
            f"found after {finding.found_after} tokens; looks like: {finding.likeliest}; "
            f"worst after {finding.worst_prefix}"
        )
    if finding.impossible:
        print(f"tokens that the law excludes: {finding.impossible[:3]}")
