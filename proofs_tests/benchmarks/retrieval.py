"""Retrieval drafting by replay: tokens a step at equal nodes, microseconds a query, bytes a token, beside a peer.

    python -m proofs_tests.benchmarks.retrieval [--replay FOLDER] [--arctic FOLDER] [--texts FILE MODEL] [--quick]

FOLDER of ``--replay`` holds a corpus in the layout of the replay benchmark (``corpus/code_store.npz``,
``code_heldout.npz``, ``edit.npz``); without it the standard library's source is used, split at words. FOLDER of
``--arctic`` holds the compiled suffix extension of arctic-inference (``_C*.so``), which builds alone from its source
package; without it the rows of the peer are left out, and said to be. FILE of ``--texts`` holds what MODEL answers to
the shipped public prompts, as `real_lossless` keeps it. The recorded text plays a greedy target: a step
emits the agreed drafts and one token more. Finished outputs join what later requests draft from, as the replay
benchmark offers it to every drafter; rows "alone" keep requests apart. Times are of the whole Python call; the best of
several rounds and their spread are reported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proofs_tests.benchmarks._report import write_report
from runtime.measure.prompts import public_prompts
from runtime.models.load import load_tokenizer
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.growing import growing
from runtime.retrieval.index import RetrievalIndex
from runtime.retrieval.suffix_index import SuffixIndex

Tokens = NDArray[np.int32]
Request = tuple[Tokens, Tokens]
PRICES = (0.3, 0.2, 0.15, 0.1, 0.08, 0.05, 0.03, 0.02, 0.01)
EQUAL = (0.5, 1, 2, 3, 5, 8, 12, 16, 24, 32)
CUTS = [(nodes, price) for nodes in (1, 2, 3, 5, 8, 16, 32) for price in (0.0, 0.1, 0.2, 0.35, 0.5)]
PEER_CUTS = [
    (nodes, factor, floor) for nodes in (1, 2, 3, 5, 8, 16, 32) for factor in (1.0, 4.0) for floor in (0.1, 0.3)
]
GOALS = {"code": ((2.7, 1.80), (8, 2.00), (23, 2.23)), "edit": ((13, 8.7), (21, 10.3), (45, 13.0))}
"""(Nodes a step, tokens a step) to reach on the replay benchmark's corpora."""


class Reader:
    """Our drafter: one query a step; with `learn`, finished outputs join a delta over the datastore."""

    def __init__(self, store: Datastore | None, budget: int, price: float, learn: bool = True) -> None:
        fresh = store.for_tenant() if store is not None else Datastore.build([])
        self._store = fresh if learn or store is not None else None
        self._budget, self._price, self._learn = budget, price, learn

    def start(self, prompt: Tokens) -> None:
        self._index = RetrievalIndex(prompt, self._store)

    def finish(self, output: Tokens) -> None:
        if self._learn and self._store is not None:
            self._store.add(output)

    def draft(self, context: Tokens) -> tuple[list[int], list[int]]:
        grown = self._index.grow(self._budget, self._price)
        return grown.tokens[0].tolist(), grown.parents[0].tolist()

    def extend(self, tokens: Tokens) -> None:
        self._index.extend(tokens)


class Arctic:
    """The peer as its own cache drives it: a tree of the request, a tree of the store, the better score of the two.

    Finished outputs join the tree of the store.
    """

    def __init__(
        self, module: Any, store: Any, budget: int, factor: float, floor: float, depth: int = 64, learn: bool = True
    ) -> None:
        self._module, self._store, self._depth, self._learn = module, store, depth, learn
        self._options = (budget, factor, 0.0, floor, True)
        self._finished = 1 << 20

    def start(self, prompt: Tokens) -> None:
        self._own = self._module.SuffixTree(self._depth)
        self._own.extend_ndarray(0, prompt)

    def draft(self, context: Tokens) -> tuple[list[int], list[int]]:
        tail = context[-self._depth :]
        best = self._own.speculate_ndarray(tail, *self._options)
        other = self._store.speculate_ndarray(tail, *self._options)
        best = best if best.score >= other.score else other
        return best.token_ids, best.parents

    def extend(self, tokens: Tokens) -> None:
        self._own.extend_ndarray(0, tokens)

    def finish(self, output: Tokens) -> None:
        if not self._learn:
            return
        self._finished += 1
        self._store.extend_ndarray(self._finished, output)


def peer_tree(module: Any, documents: list[Tokens]) -> Any:
    tree = module.SuffixTree(64)
    for number, document in enumerate(documents):
        tree.extend_ndarray(number, document)
    return tree


def agreed(tokens: list[int], parents: list[int], target: list[int]) -> int:
    """Length of the longest root path that the target begins with."""
    node, length = -1, 0
    while length < len(target):
        node = next((i for i, p in enumerate(parents) if p == node and tokens[i] == target[length]), None)  # type: ignore[assignment]
        if node is None:
            break
        length += 1
    return length


def replay(drafter: Any, requests: list[Request]) -> dict[str, float]:
    """Tokens a step, nodes a step and times over all requests."""
    query, grow = [], []
    steps = emitted = nodes = 0
    for prompt, target in requests:
        text, wanted, at = np.concatenate([prompt, target]), target.tolist(), 0
        drafter.start(prompt)
        while at < len(wanted):
            began = time.perf_counter()
            tokens, parents = drafter.draft(text[: prompt.size + at])
            query.append(time.perf_counter() - began)
            size = min(agreed(tokens, parents, wanted[at : at + len(tokens)]) + 1, len(wanted) - at)
            began = time.perf_counter()
            drafter.extend(target[at : at + size])
            grow.append(time.perf_counter() - began)
            at, steps, emitted, nodes = at + size, steps + 1, emitted + size, nodes + len(tokens)
        drafter.finish(target)
    p50, p99 = np.percentile(query, [50, 99]) * 1e6
    return {
        "tokens_per_step": emitted / steps,
        "nodes_per_step": nodes / steps,
        "query_p50_us": float(p50),
        "query_p99_us": float(p99),
        "extend_us_per_token": float(np.sum(grow) / emitted * 1e6),
    }


def quality(
    name: str, make: Callable[..., Any], settings: list[tuple[Any, ...]], requests: list[Request]
) -> list[dict[str, Any]]:
    rows = []
    for setting in settings:
        found = {"drafter": name, "setting": list(setting), **replay(make(*setting), requests)}
        rows.append(found)
        print(
            f"  {name:18s}{setting!s:16s} {found['tokens_per_step']:7.3f} tokens/step at {found['nodes_per_step']:5.1f}"
            f" nodes, query {found['query_p50_us']:6.1f} / {found['query_p99_us']:6.1f} us,"
            f" extend {found['extend_us_per_token']:5.2f} us a token",
            flush=True,
        )
    return rows


def best(call: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Smallest time of a call in seconds, and the spread (largest over smallest)."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times), max(times) / min(times)


def reached(rows: list[dict[str, Any]], goals: tuple[tuple[float, float], ...]) -> list[dict[str, float]]:
    """Tokens a step at the goals' nodes, linear between the two measured points around each."""
    points = sorted((row["nodes_per_step"], row["tokens_per_step"]) for row in rows if row["setting"][1] > 0)
    nodes, tokens = zip(*points, strict=True)
    found = [{"nodes": at, "goal": goal, "reached": float(np.interp(at, nodes, tokens))} for at, goal in goals]
    for row in found:
        print(f"  at {row['nodes']:5.1f} nodes {row['reached']:7.3f} tokens/step, goal {row['goal']:.2f}", flush=True)
    return found


def cuts(arctic: Any, learn: bool, pairs: list[Request]) -> list[dict[str, Any]]:
    """Both drafters without a datastore at budgets crossed with prices; requests join what later ones see, or not."""
    ours = quality("reader", lambda b, p: Reader(None, b, p, learn), CUTS, pairs)
    return ours + quality(
        "arctic-inference", lambda *s: Arctic(arctic, peer_tree(arctic, []), *s, learn=learn), PEER_CUTS, pairs
    )


def equal_nodes(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Tokens a step of ours and the peer's at equal nodes, each by the best of its settings, or of two in turn."""
    found: list[dict[str, float]] = []
    for nodes in EQUAL:
        ours, peer = (
            frontier([row for row in rows if row["drafter"] == name], nodes) for name in ("reader", "arctic-inference")
        )
        found.append({"nodes": nodes, "reader": ours, "peer": peer, "ratio": ours / peer})
        print(f"  at {nodes:4.1f} nodes: {ours:.3f}, arctic-inference {peer:.3f}, ratio {ours / peer:.3f}", flush=True)
    return found


def frontier(rows: list[dict[str, Any]], nodes: float) -> float:
    """Most tokens a step at so many nodes: the concave hull of the measured settings, plain decoding among them."""
    points = sorted({(0.0, 1.0), *((row["nodes_per_step"], row["tokens_per_step"]) for row in rows)})
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) <= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    return float(np.interp(nodes, [x for x, _ in hull], [y for _, y in hull]))


def wrong_domain(documents: list[Tokens], requests: list[Request]) -> dict[str, float]:
    """What a datastore of another domain costs: the same documents with all token ids exchanged at random."""
    largest = 1 + max(int(part.max()) for pair in [*requests, documents] for part in pair if part.size)
    other = np.random.default_rng(0).permutation(largest).astype(np.int32)
    foreign = Datastore.build([other[document] for document in documents])
    alone, beside = (replay(Reader(store, 32, 0.02, False), requests) for store in (None, foreign))
    found = {
        "tokens_per_step_without": alone["tokens_per_step"],
        "tokens_per_step_with": beside["tokens_per_step"],
        "nodes_without": alone["nodes_per_step"],
        "nodes_with": beside["nodes_per_step"],
        "query_p50_us_without": alone["query_p50_us"],
        "query_p50_us_with": beside["query_p50_us"],
        "loss": 1 - beside["tokens_per_step"] / alone["tokens_per_step"],
    }
    print("wrong domain: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()), flush=True)
    return found


def rates(documents: list[Tokens], store: Datastore, requests: list[Request], rounds: int) -> dict[str, Any]:
    """Build, extension and batch times with their spreads, and bytes."""
    size = sum(document.size for document in documents)
    build, build_spread = best(lambda: Datastore.build(documents), max(2, rounds // 2))
    text = np.concatenate(documents)[:8000]
    index, index_spread = best(lambda: SuffixIndex(text), rounds)
    batch = [RetrievalIndex(np.concatenate(requests[i % len(requests)])[: 300 + 5 * i], store) for i in range(64)]
    found: dict[str, Any] = {
        "datastore_tokens_per_s": size / build,
        "datastore_spread": build_spread,
        "datastore_bytes_per_token": (store.nbytes - store.delta.nbytes) / size,
        "index_us_per_token": index / text.size * 1e6,
        "index_spread": index_spread,
        "index_bytes_per_token": SuffixIndex(text).nbytes / text.size,
    }
    for threads in (1, 2):
        for price in (0.0, 0.02):
            growing(batch, 32, price, threads=threads)()
            spent, spread = best(lambda t=threads, p=price: growing(batch, 32, p, threads=t)(), 4 * rounds)
            found[f"batch_of_64_ms_threads_{threads}_price_{price}"] = spent * 1e3
            found[f"batch_of_64_spread_threads_{threads}_price_{price}"] = spread
    return found


def read_corpus(folder: Path, limit: int) -> tuple[list[Tokens], dict[str, list[Request]]]:
    """Datastore and requests of the replay benchmark's corpora."""
    kept = np.load(folder / "code_store.npz")
    ends = [int(end) for end in kept["offsets"] if 0 < end < limit]
    documents = [piece.astype(np.int32) for piece in np.split(kept["tokens"][:limit], ends) if piece.size]
    held, edit = np.load(folder / "code_heldout.npz"), np.load(folder / "edit.npz")
    prompts = np.split(edit["prompts"], np.cumsum(edit["plen"])[:-1])
    targets = np.split(edit["targets"], np.cumsum(edit["tlen"])[:-1])
    pairs = {"code": zip(held["prompts"], held["targets"], strict=True), "edit": zip(prompts, targets, strict=True)}
    return documents, {k: [(p.astype(np.int32), t.astype(np.int32)) for p, t in v] for k, v in pairs.items()}


def answered(file: Path, model: Path) -> list[Request]:
    """Public prompts with a real model's greedy answers."""
    told = json.loads(file.read_text())
    prompts = {prompt.id: prompt.tokens for prompt in public_prompts("test", load_tokenizer(model))}
    return [
        (np.asarray(prompts[name], np.int32), np.asarray(text, np.int32))
        for name, text in zip(told["ids"], told["texts"], strict=True)
    ]


def own_corpus(limit: int) -> tuple[list[Tokens], dict[str, list[Request]]]:
    """The standard library split at words; the edit task renames words and inserts lines."""
    numbers: dict[str, int] = {}

    def encode(text: str) -> Tokens:
        words = re.findall(r"\w+|\s+|.", text)
        return np.array([numbers.setdefault(word, len(numbers) % 200_000) for word in words], np.int32)

    choose = random.Random(0)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")) + sorted(
        Path(sysconfig.get_paths()["stdlib"]).glob("[a-l]*/*.py")
    )
    choose.shuffle(files)
    texts = [file.read_text(errors="ignore") for file in files]
    held = [text for text in texts[:40] if len(text) > 6000]
    documents, total = [], 0
    for text in texts[40:]:
        if total >= limit:
            break
        documents.append(encode(text))
        total += documents[-1].size
    code = [(tokens[:256], tokens[256:768]) for tokens in map(encode, held)]
    edit = [(encode(text[:3500]), encode(edited(text[:3500], choose))[:768]) for text in held]
    return documents, {"code": code, "edit": edit}


def edited(text: str, choose: random.Random) -> str:
    words = choose.sample(sorted(set(re.findall(r"[a-z_]{5,}", text))), 6)
    for word in words:
        text = re.sub(rf"\b{word}\b", choose.choice([f"{word}_new", word[:3] + "x", f"cfg.{word}"]), text)
    lines = text.split("\n")
    return "\n".join(line + (f"\n# note {i}" if choose.random() < 0.08 else "") for i, line in enumerate(lines))


def load_arctic(folder: Path | None) -> Any:
    found = sorted(folder.glob("_C*.so")) if folder else []
    if not found:
        return None
    spec = importlib.util.spec_from_file_location("_C", found[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--arctic", type=Path)
    parser.add_argument("--texts", type=Path, nargs=2, metavar=("FILE", "MODEL"))
    parser.add_argument("--store", type=int, default=2_000_000, help="tokens of the datastore")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    read = (lambda size: read_corpus(options.replay / "corpus", size)) if options.replay else own_corpus
    documents, requests = read(options.store)
    if options.texts:
        requests["public prompts"] = answered(*options.texts)
    if options.quick:
        requests = {name: pairs[:6] for name, pairs in requests.items()}
    arctic = load_arctic(options.arctic)
    print("peer: " + ("arctic-inference, same run" if arctic else "not built; its rows are left out"))
    store = Datastore.build(documents)
    RetrievalIndex([1, 2, 1], store).grow(4)
    corpus = "replay" if options.replay else "standard library"
    payload: dict[str, Any] = {"corpus": corpus, "quality": {}, "peer": bool(arctic)}
    stored = {"code": store}
    if arctic:
        began = time.perf_counter()
        peer_store = peer_tree(arctic, documents)
        size = sum(document.size for document in documents)
        payload["arctic_tokens_per_s"] = size / (time.perf_counter() - began)
        payload["arctic_bytes_per_token"] = peer_store.estimate_memory() / size
    for name, pairs in requests.items():
        print(f"{name}: {len(pairs)} requests, datastore {'none' if stored.get(name) is None else len(documents)}")
        settings = [*((64, price) for price in PRICES), (16, 0.0), (32, 0.0), (64, 0.0)]
        ours = quality("reader", lambda b, p, n=name: Reader(stored.get(n), b, p), settings, pairs)
        ours += quality("reader alone", lambda b, p, n=name: Reader(stored.get(n), b, p, False), settings, pairs)
        if arctic:
            held = documents if stored.get(name) is not None else []
            peers = [(32, 1.0, 0.1), (32, 4.0, 0.05), (64, 4.0, 0.02)]
            ours += quality(
                "arctic-inference", lambda *s, h=held: Arctic(arctic, peer_tree(arctic, h), *s), peers, pairs
            )
            payload.setdefault("equal_nodes", {})[name] = {
                "together" if learn else "apart": equal_nodes(cuts(arctic, learn, pairs)) for learn in (True, False)
            }
        payload["quality"][name] = ours
        if options.replay and name in GOALS:
            for kind, key in (("reader", "goals"), ("reader alone", "goals_alone")):
                found = reached([r for r in ours if r["drafter"] == kind], GOALS[name])
                payload.setdefault(key, {})[name] = found
    payload["wrong_domain"] = wrong_domain(documents, requests["code"])
    payload["rates"] = rates(documents, store, requests["code"], 3 if options.quick else 7)
    for key, value in payload["rates"].items():
        print(f"  {key:44s}{value:14.3f}")
    if arctic:
        ratio = payload["rates"]["datastore_tokens_per_s"] / payload["arctic_tokens_per_s"]
        held_bytes = payload["arctic_bytes_per_token"]
        print(f"  datastore build over the peer's: {ratio:.1f}; the peer's bytes a token: {held_bytes:.0f}")
    print(write_report("retrieval", payload))


if __name__ == "__main__":
    main()
