"""Layers of a target that draft for it, found by evolution, beside uniform stride, one-shot greedy, look-ups and off.

    reader evolve self-draft --target out/models/smollm2 --prompts chats.jsonl --dtype bfloat16
    python -m proofs_tests.benchmarks.self_draft out/self-draft.json --dtype bfloat16

Measures tokens a second of each choice of the document on prompts that no search has seen, one at a time, all choices
in turn on each prompt: on a machine that does nothing else. `--check` tells how many texts are the plain one's, in
float32, and times nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.acceptance.intervals import bootstrap_prompts
from reader_theory.documents import Chain, Off, Policy, policy_of
from reader_theory.documents.self_draft import LayerChoice, SelfDraft
from reader_theory.json_files import load_object
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.prompts import PromptTokens, public_prompts
from runtime.models.base import LanguageModel
from runtime.models.load import load_model, load_tokenizer
from runtime.models.part import part_of

WORKLOADS = ("chat", "code", "math")
LOOK_UPS = Chain(min_match=2, factor=1.0, max_tokens=16)


@dataclass(frozen=True)
class Rival:
    """What drafts, and what it was predicted to give over plain decoding."""

    name: str
    policy: Policy
    choice: LayerChoice | None = None

    def engine(self, target: LanguageModel, context: int) -> Engine:
        """That serves one request at a time."""
        draft = None if self.choice is None else part_of(target, self.choice.kept)
        return Engine(target, draft, policy=self.policy, max_batch=1, max_context=context)


def rivals(document: SelfDraft, budgets: Sequence[int]) -> list[Rival]:
    """Off, look-ups, and the choices that leave out so many layers; all of them where no budgets are given."""
    chosen = [each for each in document.choices if not budgets or document.layers - len(each.kept) in budgets]
    return [
        Rival("off", Off()),
        Rival("look-ups", LOOK_UPS),
        *(Rival(each.name, policy_of(TokenTree.chain(each.drafts)), each) for each in chosen),
    ]


def answered(engine: Engine, prompt: PromptTokens, params: SamplingParams) -> tuple[list[int], tuple[int, int, float]]:
    """The text, and tokens, steps and seconds of decoding: the prompt and its first token do not count."""
    request, prefilled = engine.add(prompt.tokens, params), engine.prefill_s
    begun, steps = perf_counter(), 0
    while engine.step():
        steps += 1
    spent = perf_counter() - begun - (engine.prefill_s - prefilled)
    return list(request.output), (len(request.output) - 1, request.steps, spent)


def measured(
    target: LanguageModel, among: Sequence[Rival], prompts: Sequence[PromptTokens], new_tokens: int
) -> tuple[NDArray[np.float64], list[int]]:
    """(rivals, prompts, 3) tokens, steps and seconds of each; and texts of each that are the first one's."""
    context = max(len(prompt.tokens) for prompt in prompts) + new_tokens + 16
    engines, params = [each.engine(target, context) for each in among], SamplingParams(max_new_tokens=new_tokens)
    sums, equal = np.zeros((len(among), len(prompts), 3)), [0] * len(among)
    for engine in engines:
        answered(engine, prompts[0], SamplingParams(max_new_tokens=4))
    for place, prompt in enumerate(prompts):
        texts: dict[int, list[int]] = {}
        for turn in range(len(among)):
            i = (turn + place) % len(among)
            texts[i], sums[i, place] = answered(engines[i], prompt, params)
        for i, text in texts.items():
            equal[i] += text == texts[0]
        print(prompt.id, (sums[:, place, 0] / sums[:, place, 2]).round(1).tolist(), flush=True)
    return sums, equal


def ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> list[float]:
    """Tokens a second of one over those of another, with its interval, from (prompts, 3) sums of both."""

    def statistic(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
        return pooled[..., 0] / pooled[..., 1] * pooled[..., 3] / pooled[..., 2]

    found = bootstrap_prompts(np.concatenate((over[:, [0, 2]], under[:, [0, 2]]), axis=1), statistic)
    return [float(found.value), float(found.low), float(found.high)]


def rows(among: Sequence[Rival], sums: NDArray[np.float64], equal: Sequence[int]) -> list[dict[str, Any]]:
    """One row a rival."""
    pooled = sums.sum(axis=1)
    return [
        {
            "name": rival.name,
            "policy": rival.policy.name,
            "kept": [] if rival.choice is None else list(rival.choice.kept),
            "tokens_per_s": float(pooled[i, 0] / pooled[i, 2]),
            "tokens_per_step": float(pooled[i, 0] / pooled[i, 1]),
            "speed_up": ratio(sums[i], sums[0]),
            "predicted": None
            if rival.choice is None
            else [getattr(rival.choice.speed_up, end) for end in ("value", "low", "high")],
            "equal_texts": equal[i],
        }
        for i, rival in enumerate(among)
    ]  # fmt: skip


def found_over(among: Sequence[Rival], sums: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Tokens a second of each found set over those of what else leaves out as many layers."""
    by_name = {rival.name: i for i, rival in enumerate(among)}
    return [
        {"left_out": budget, "over": how, "ratio": ratio(sums[i], sums[by_name[f"{how}, {budget}"]])}
        for name, i in by_name.items()
        if name.startswith("found, ")
        for budget in [name.removeprefix("found, ")]
        for how in ("uniform stride", "one-shot")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=Path, help="SelfDraft, from `reader evolve self-draft`")
    parser.add_argument("--target", help="the document's own when left out")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--left-out", type=int, nargs="*", default=[], help="only choices that leave out so many")
    parser.add_argument("--prompts", type=int, default=4, help="of each of chat, code and math")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--check", action="store_true", help="count equal texts in float32; time nothing")
    parser.add_argument("--name", default="smollm2", help="of the rows in the result")
    options = parser.parse_args()
    document = SelfDraft.read(options.document)
    folder = options.target or document.target
    target = load_model(folder, "float32" if options.check else options.dtype)
    prompts = public_prompts("test", load_tokenizer(folder), WORKLOADS, options.prompts)
    among = rivals(document, options.left_out)
    sums, equal = measured(target, among, prompts, options.new_tokens)
    file = RESULTS / "self_draft.json"
    held = load_object(file, "the result")["models"] if file.exists() else {}
    mine = held.get(options.name, {})
    if options.check:
        mine |= {
            "float32_prompts": len(prompts),
            "float32_equal_texts": dict(zip([each.name for each in among], equal, strict=True)),
        }
    else:
        mine |= {
            "dtype": options.dtype, "prompts": len(prompts), "new_tokens": options.new_tokens,
            "tokens_scored_by_the_search": document.tokens_scored, "rows": rows(among, sums, equal),
            "found_over": found_over(among, sums),
        }  # fmt: skip
    print(write_report("self_draft", {"models": held | {options.name: mine}}))


if __name__ == "__main__":
    main()
