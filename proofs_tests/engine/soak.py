"""A soak: random requests, joins, cancels and changes of policy on one engine, and what must hold whatever comes.

    python -m proofs_tests.engine.soak --minutes 10 --seeds 10

Nothing but a request's own error may happen: no step raises, no row or slot is left, memory stays flat, and every
finished text is the one that the request gets alone. Requests come from three tenants whose outputs the engine learns.
Memory is read with an engine's work done and the engine gone, as the process holds it, and once more when the
allocator has given back what it keeps of freed blocks: the second must not grow from the second seed on.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch

from proofs_tests.benchmarks._report import write_report
from reader_theory.documents import Chain, Grown, Off, Policy, Static, Union
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.request import Request
from runtime.engine.sampling import SamplingParams
from runtime.models.load import load_model
from runtime.models.memory import trim

MAX_CONTEXT = 256
CHAIN = Chain(min_match=1, offset=2.0, factor=1.0, max_tokens=16)
POLICIES: tuple[Policy, ...] = (
    Off(),
    Static.of(TokenTree.chain(1)),
    Static.of(TokenTree.chain(8)),
    Static.of(TokenTree.from_rank_paths([(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0)])),
    CHAIN,
    Union(static=Static.of(TokenTree.chain(4)), chain=CHAIN, skip_at_match=4),
    Grown(nodes=12, draft_price=0.05, levels=2),
    Grown(nodes=24, drafter=None),
    Chain(min_match=2, factor=1.0, max_tokens=16, drafter="datastore"),
    Grown(nodes=16, drafter=None, retrieval="datastore"),
)
TENANTS = ("", "first", "second")
FIXED_BY_SEED = ("target_only", "gumbel")
"""Rules under which the text is a function of target and seed, whatever is drafted; greedy text is one anyway."""
RULES = (*FIXED_BY_SEED, "chain", "multi_round", "without_replacement", "block", "traversal", "typical_lossy")


@dataclass
class Soak:
    """One engine under random events.

    Parameters
    ----------
    target, draft : LanguageModel
        In float64 where texts are to be compared token for token.
    seed : int
    """

    target: Any
    draft: Any
    seed: int
    rows: int = 4
    compared: int = 0
    refused: int = 0
    steps: int = 0
    live: list[Request] = field(default_factory=list)
    asked: dict[int, tuple[Any, SamplingParams]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.engine = Engine(self.target, self.draft, max_batch=self.rows, max_context=MAX_CONTEXT, learn=True)
        self.alone = Engine(self.target, max_batch=1, max_context=MAX_CONTEXT)

    def event(self) -> None:
        """One random thing, then a step."""
        happens = self.rng.random()
        if happens < 0.35:
            self._add()
        elif happens < 0.42 and self.live:
            self.engine.cancel(self.live[int(self.rng.integers(len(self.live)))])
        elif happens < 0.55:
            self.engine.use(POLICIES[int(self.rng.integers(len(POLICIES)))])
        self.engine.step()
        self.steps += 1
        self._settle()

    def finish(self) -> None:
        """Serve what is left, and check that nothing stays behind."""
        while self.engine.step():
            self._settle()
        self._settle()
        counters = self.engine.counters
        assert not self.live and counters.kv_tokens == 0, "a row or a slot was left"

    def _add(self) -> None:
        vocabulary, rng = self.target.vocabulary, self.rng
        length = int(rng.integers(1, MAX_CONTEXT + 20)) if rng.random() < 0.5 else int(rng.integers(1, 40))
        pattern = rng.integers(0, vocabulary, max(length // int(rng.integers(1, 6)), 1))
        prompt = np.resize(pattern, length)
        if rng.random() < 0.05:
            prompt[int(rng.integers(length))] = int(rng.choice([-1, vocabulary, 10**9]))
        sampled = rng.random() < 0.5
        params = SamplingParams(
            temperature=float(rng.choice([0.5, 1.0, 2.0])) if sampled else 0.0,
            top_k=int(rng.choice([0, 5])) if sampled else 0,
            repetition_penalty=float(rng.choice([1.0, 1.0, 1.2])),
            max_new_tokens=min(int(rng.integers(1, 80)), max(MAX_CONTEXT - length + int(rng.integers(-1, 2)), 1)),
            stop_token_ids=tuple(rng.integers(0, vocabulary, int(rng.integers(0, 3))).tolist()),
            seed=int(rng.integers(0, 2**31)),
            verification=str(rng.choice(RULES)),
        )
        request = self.engine.add(prompt, params, tenant=str(rng.choice(TENANTS)))
        self.asked[id(request)] = (prompt, params)
        self.live.append(request)

    def _settle(self) -> None:
        for request in [r for r in self.live if r.done]:
            self.live.remove(request)
            prompt, params = self.asked.pop(id(request))
            finish = request.finish or ""
            if finish.startswith("error"):
                self.refused += 1
                continue
            if finish == "cancelled" or not (params.greedy or params.verification in FIXED_BY_SEED):
                continue
            alone = self.alone.add(prompt, params)
            while self.alone.step():
                pass
            assert alone.output == request.output, f"seed {self.seed}, step {self.steps}: {params} of {len(prompt)}"
            self.compared += 1


def house_pair(dtype: str = "float64") -> tuple[Any, Any]:
    """The house target and draft."""
    from runtime.models.house import house_folder

    return load_model(house_folder("target"), dtype), load_model(house_folder("draft"), dtype)


def soaked(target: Any, draft: Any, seed: int, more: Callable[[Soak], bool]) -> Soak:
    """Events as long as `more` says so, then the end; raises where something does not hold."""
    soak = Soak(target, draft, seed)
    while more(soak):
        soak.event()
    soak.finish()
    return soak


@dataclass(frozen=True)
class Held:
    """Memory in MiB: of the process, of it once the allocator has given back, and of the tensors that are alive."""

    process: float
    trimmed: float
    tensors: float


def memory() -> Held:
    """What is held now, by whatever is still alive."""
    gc.collect()
    process, before = psutil.Process(), psutil.Process().memory_info().rss
    trim()
    return Held(before / 2**20, process.memory_info().rss / 2**20, tensor_bytes() / 2**20)


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive, those of one storage once."""
    alive = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    return sum({each.data_ptr(): each.untyped_storage().nbytes() for each in alive}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    pair, rows = house_pair(), list[dict[str, Any]]()
    for seed in range(args.seeds):
        end = time.monotonic() + 60 * args.minutes / args.seeds
        soak = soaked(*pair, seed, lambda _, end=end: time.monotonic() < end)
        row = {"seed": seed, "steps": soak.steps, "texts_as_alone": soak.compared, "refused": soak.refused}
        del soak
        rows.append({**row, "held_mib": vars(memory())})
        print(rows[-1], flush=True)
        grown = rows[-1]["held_mib"]["trimmed"] - rows[min(1, seed)]["held_mib"]["trimmed"]
        write_report("soak", {"minutes": args.minutes, "grown_since_second_seed_mib": grown, "rows": rows})


if __name__ == "__main__":
    main()
