"""SGLang's algorithm, driven as SGLang's NGRAM worker and registry drive it, by their own source where it is there."""

from __future__ import annotations

import ast
import sys
from array import array
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from proofs_tests.documents.documents_examples import entry, plan
from proofs_tests.plugins import wheels
from proofs_tests.plugins.batches import VOCABULARY, Request, Rows, random_steps
from proofs_tests.plugins.test_proposer import GROWN, OWN, STORED, STORED_GROWN, anew, proposer_of
from reader_theory.documents import Chain, Off, Policy
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTrees
from runtime.plugins import sglang as adapter
from runtime.plugins.sglang import SglangDrafts
from runtime.retrieval.index import RetrievalIndex

NODES = 9
WORKER = "sglang/srt/speculative/ngram_worker.py"
POLICIES: dict[str, Any] = {
    "own": OWN,
    "stored": STORED,
    "grown": GROWN,
    "grown from a store": STORED_GROWN,
    "by batch": plan(entry(3, OWN), entry(6, GROWN), entry(12, Off()), draft=None),
}


def batch_of(requests: list[Request], fresh: list[list[int]], *, late: bool, grammar: bool = False) -> Any:
    """A decode batch; where results come late, what was accepted last stands in `spec_info` alone."""
    shown = [len(some) if late and not grammar else 0 for some in fresh]
    reqs = [
        SimpleNamespace(
            rid=each.req_id, origin_input_ids_unpadded=array("q", each.prompt_token_ids),
            output_ids=array("q", each.output_token_ids[: len(each.output_token_ids) - hidden]),
        )
        for each, hidden in zip(requests, shown, strict=True)
    ]  # fmt: skip
    accepted = torch.zeros((len(fresh), NODES), dtype=torch.int32)
    for row, some in enumerate(fresh):
        accepted[row, : len(some)] = torch.tensor(some, dtype=torch.int32)
    lengths = torch.tensor([len(some) for some in fresh], dtype=torch.int32)
    info = SimpleNamespace(accept_tokens=accepted.flatten(), accept_lens=lengths)
    return SimpleNamespace(reqs=reqs, spec_info=info, grammar_needs_sync=lambda: grammar)


def parents_of(mask: NDArray[np.bool_]) -> list[int]:
    """The nearest node above each, by SGLang's rule."""
    return [max(np.flatnonzero(row[:node]).tolist(), default=-1) for node, row in enumerate(mask)]


def is_legal(tokens: NDArray[np.int64], mask: NDArray[np.bool_], last: int) -> None:
    """A tree: one root, which is the last token; every node sees itself and the path to it; siblings differ."""
    parents = parents_of(mask)
    assert tokens[0] == last and parents[0] == -1 and all(above >= 0 for above in parents[1:])
    assert ((tokens >= 0) & (tokens < VOCABULARY)).all()
    for node in range(len(tokens)):
        path, at = set(), node
        while at >= 0:
            path.add(at)
            at = parents[at]
        assert set(np.flatnonzero(mask[node]).tolist()) == path
    children = [(above, int(token)) for above, token in zip(parents[1:], tokens[1:], strict=True)]
    assert len(set(children)) == len(children)


def walked(rng: np.random.Generator, tokens: NDArray[np.int64], mask: NDArray[np.bool_]) -> list[int]:
    """Tokens of a way down the tree."""
    parents, at, path = parents_of(mask), 0, list[int]()
    while below := [node for node, above in enumerate(parents) if above == at]:
        at = int(rng.choice(below))
        path.append(int(tokens[at]))
    return path


def tree_anew(policy: Policy, text: list[int]) -> list[int]:
    """Drafted tokens of a tree from an index made for this text alone."""
    if isinstance(policy, Chain):
        return anew(policy, text, min(NODES - 1, policy.max_tokens))
    if isinstance(policy, Off):
        return []
    from proofs_tests.plugins.test_proposer import past

    index = RetrievalIndex(np.array(text, np.int32), past() if "datastore" in policy.drafters else None)
    return index.tree(NODES - 1).tokens.tolist()[1:]


def drive(name: str, steps: int, every: int, *, late: bool) -> int:
    """Random batches; one in `every` is compared with trees made anew. Nodes that are no filling."""
    policy = POLICIES[name]
    drafts, rows, chains = SglangDrafts(proposer_of(policy), NODES), Rows(), [list[list[int]]()]
    rng, told = np.random.default_rng(1), 0
    for number, step in enumerate(random_steps(rows, steps, 7, lambda: chains[0])):
        decoding = [row for row, some in enumerate(step.sampled) if some]
        chains[0] = [[] for _ in step.sampled]
        if not decoding:
            continue
        requests, fresh = [step.requests[row] for row in decoding], [step.sampled[row] for row in decoding]
        batch = batch_of(requests, fresh, late=late, grammar=number % 5 == 0)
        flat, mask = drafts.prepare(batch, overlap=late)
        assert flat.shape == (len(decoding) * NODES,) and flat.dtype == np.int64
        assert mask.shape == (len(decoding) * NODES**2,) and mask.dtype == np.bool_
        trees, masks = flat.reshape(-1, NODES), mask.reshape(-1, NODES, NODES)
        here = policy.entry("chat", len(decoding)).policy if hasattr(policy, "entries") else policy
        for place, request in enumerate(requests):
            is_legal(trees[place], masks[place], request.text[-1])
            chains[0][decoding[place]] = walked(rng, trees[place], masks[place])[: NODES - 2]
            if number % every == 0:
                want = tree_anew(here, request.text)
                assert trees[place, 1 : 1 + len(want)].tolist() == want
                assert not trees[place, 1 + len(want) :].any()
                told += len(want)
        held = [index for index in drafts.proposer.rows.indices if index is not None]
        assert len(held) == len(set(map(id, held))) == len(decoding)
    drafts.proposer.clear()
    assert drafts.proposer.rows.nbytes == 0
    return told


@pytest.mark.parametrize("late", [False, True], ids=["results at once", "results a step late"])
@pytest.mark.parametrize("name", POLICIES)
def test_trees_of_random_batches_are_legal_and_leave_nothing(name: str, late: bool) -> None:
    assert drive(name, 60, 1, late=late) > 300


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["results at once", "results a step late"])
@pytest.mark.parametrize("name", POLICIES)
def test_trees_of_ten_thousand_random_batches_are_legal_and_leave_nothing(name: str, late: bool) -> None:
    assert drive(name, 10_000, 50, late=late) > 1000


def test_filling_hangs_below_the_last_node_alone() -> None:
    trees = TokenTrees.of([[7, 1, 2, 3], [8], [9, 4]], [[-1, 0, 0, 1], [-1], [-1, 0]])
    tokens, parents = adapter.filled(trees, 6)
    assert tokens.tolist() == [[7, 1, 2, 3, 0, 0], [8, 0, 0, 0, 0, 0], [9, 4, 0, 0, 0, 0]]
    assert parents.tolist() == [[-1, 0, 0, 1, 3, 4], [-1, 0, 1, 2, 3, 4], [-1, 0, 1, 2, 3, 4]]


def test_sglang_reads_the_links_of_our_trees_from_our_mask() -> None:
    """By the function that its worker derives them with."""
    links = wheels.executed([wheels.named(wheels.source(WORKER), "_derive_tree_links")], {"np": np, "torch": torch})
    trees = TokenTrees.of([[7, 1, 2, 3, 4], [8, 5]], [[-1, 0, 0, 1, 2], [-1, 0]])
    _, parents = adapter.filled(trees, 6)
    child, sibling = links["_derive_tree_links"](adapter.closures(parents).ravel(), 2, 6)  # type: ignore[operator]
    for row in range(2):
        below = [[k for k in range(6) if parents[row, k] == node] for node in range(6)]
        assert child[row].tolist() == [some[0] if some else -1 for some in below]
        following = {node: some[place + 1] for some in below for place, node in enumerate(some[:-1])}
        assert sibling[row].tolist() == [following.get(node, -1) for node in range(6)]


def stubs(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, Any]) -> None:
    """Modules of SGLang that hold these names alone; their parents are packages without content."""
    for path, names in modules.items():
        parts = path.split("__")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            if name not in sys.modules:
                module = ModuleType(name)
                module.__path__ = []  # type: ignore[attr-defined]
                monkeypatch.setitem(sys.modules, name, module)
        vars(sys.modules[".".join(parts)]).update(names)


def loaded(monkeypatch: pytest.MonkeyPatch, path: str) -> ModuleType:
    """A module of SGLang from its own source."""
    tree, name = wheels.source(path), path.removesuffix(".py").replace("/", ".")
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(tree, path, "exec"), vars(module))
    return module


def registry(monkeypatch: pytest.MonkeyPatch) -> Any:
    """SGLang's own algorithms and registry, with ours registered."""
    wheels.source("sglang/srt/speculative/spec_info.py")
    stubs(
        monkeypatch,
        sglang__srt__speculative={},
        sglang__srt__arg_groups__overrides={"resolving_view": lambda arguments: arguments},
        sglang__srt__runtime_context={"get_spec": lambda: SimpleNamespace()},
    )
    loaded(monkeypatch, "sglang/srt/speculative/spec_registry.py")
    info = loaded(monkeypatch, "sglang/srt/speculative/spec_info.py")
    adapter.register()
    return info.SpeculativeAlgorithm


def test_sglang_takes_it_for_an_ngram_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithms = registry(monkeypatch)
    ours, theirs = algorithms.from_string("reader"), algorithms.NGRAM
    asked = [
        name for name, what in vars(algorithms).items() if callable(what) and name.startswith(("is_", "supports_"))
    ]
    assert ours.is_ngram() and len(asked) > 10
    assert {name: getattr(ours, name)() for name in asked} == {name: getattr(theirs, name)() for name in asked}
    assert ours.has_draft_kv() == theirs.has_draft_kv() and ours.supports_overlap


def test_sglang_settles_the_size_of_trees_from_the_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def arguments(**changes: Any) -> Any:
        told: dict[str, Any] = {
            "page_size": 1, "attention_backend": None, "device": "cuda", "disable_overlap_schedule": False,
            "enable_mixed_chunk": True, "max_running_requests": None, "speculative_num_draft_tokens": None,
            "speculative_ngram_max_bfs_breadth": 10, "speculative_eagle_topk": None, "speculative_num_steps": None,
        }  # fmt: skip
        return SimpleNamespace(**told | changes)

    monkeypatch.setenv("READER_PLAN", str(plan(entry(1, OWN), draft=None).write(tmp_path / "chain.json")))
    settled = arguments(page_size=16, device="cpu")
    adapter.settle(settled)
    assert settled.speculative_num_draft_tokens == 9 and settled.speculative_eagle_topk == 1
    assert settled.disable_overlap_schedule and not settled.enable_mixed_chunk and settled.max_running_requests == 48
    monkeypatch.setenv("READER_PLAN", str(plan(entry(1, GROWN), draft=None).write(tmp_path / "tree.json")))
    settled = arguments(speculative_num_draft_tokens=5, max_running_requests=7)
    adapter.settle(settled)
    assert settled.speculative_num_draft_tokens == 5 and settled.speculative_eagle_topk == 10
    assert settled.max_running_requests == 7 and not settled.disable_overlap_schedule
    adapter.settle(arguments(page_size=16, attention_backend="flashinfer"))
    with pytest.raises(InvalidInputError, match="page-size 1"):
        adapter.settle(arguments(page_size=16))


def test_sglang_has_the_arguments_that_are_settled() -> None:
    known = ast.unparse(wheels.source("sglang/srt/arg_groups/field_order.py"))
    read = wheels.named(ast.parse(Path(adapter.__file__).read_text()), "settle")
    names = {
        node.attr for node in ast.walk(read)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "server_args"
    }  # fmt: skip
    assert len(names) > 8 and not {name for name in names if f"'{name}'" not in known}


def test_sglangs_own_worker_verifies_our_trees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`NGRAMWorker` of the wheel prepares a step by our subclass: its buffers hold our trees, its links are theirs."""
    tree = wheels.source(WORKER)
    worker = wheels.named(tree, "NGRAMWorker")
    spec = SimpleNamespace(
        speculative_num_draft_tokens=NODES, speculative_ngram_max_trie_depth=18, speculative_eagle_topk=1,
        speculative_num_steps=8, speculative_ngram_external_corpus_path=None, speculative_ngram_min_bfs_breadth=1,
        speculative_ngram_max_bfs_breadth=10, speculative_ngram_match_type="BFS", speculative_ngram_capacity=100,
        speculative_ngram_external_sam_budget=0, speculative_ngram_external_corpus_max_tokens=0,
    )  # fmt: skip
    links = wheels.executed([wheels.named(tree, "_derive_tree_links")], {"np": np, "torch": torch})[
        "_derive_tree_links"
    ]

    def rebuilt(
        mask: Any, lengths: Any, positions: Any, index: Any, child: Any, sibling: Any, rows: int, n: int
    ) -> None:
        above = mask.numpy().reshape(rows, n, n)
        positions.copy_(torch.from_numpy((above.sum(-1) - 1 + lengths.numpy()[:, None]).ravel()))
        index.copy_(torch.arange(rows * n).reshape(rows, n))
        for mine, theirs in zip((child, sibling), links(above.ravel(), rows, n), strict=True):  # type: ignore[operator]
            mine.copy_(theirs)

    names: dict[str, Any] = {
        "np": np, "torch": torch, "BaseSpecWorker": object, "USE_FULL_MASK": True, "_is_cpu": True,
        "get_spec": lambda: spec, "get_schedule": lambda: SimpleNamespace(disable_overlap_schedule=False, page_size=1),
        "get_device": lambda: SimpleNamespace(device="cpu"),
        "NgramCorpus": lambda **_: SimpleNamespace(reset=lambda: None),
        "reconstruct_indices_from_tree_mask_func": rebuilt, "ForwardMode": SimpleNamespace(TARGET_VERIFY="verify"),
        "assign_extend_cache_locs_func": lambda **_: None, "prepare_mamba_track_for_verify": lambda _: None,
        "NgramVerifyInput": SimpleNamespace,
    }  # fmt: skip
    stubs(monkeypatch, sglang__srt__speculative__ngram_worker=wheels.executed([worker], names))
    monkeypatch.setenv("READER_PLAN", str(plan(entry(1, OWN), draft=None).write(tmp_path / "plan.json")))
    runner = SimpleNamespace(max_running_requests=4, model_config=SimpleNamespace(vocab_size=VOCABULARY))
    pools = (SimpleNamespace(req_to_token=None), None)
    target = SimpleNamespace(model_runner=runner, get_memory_pool=lambda: pools)
    made = adapter._worker()(SimpleNamespace(), 0, 0, target)
    made.alloc_memory_pool()
    requests = [Request("a", [1, 2, 3, 4, 1, 2], [3]), Request("b", [5, 6], [7])]
    batch = batch_of(requests, [[3], [7]], late=True)
    lengths = torch.tensor([6, 2])
    vars(batch).update(
        forward_mode=SimpleNamespace(is_decode=lambda: True), seq_lens=lengths, seq_lens_cpu=lengths, has_grammar=False,
        req_pool_indices=None, req_to_token_pool=pools[0],
    )  # fmt: skip
    made._prepare_for_speculative_decoding(batch)
    info = batch.spec_info
    assert batch.forward_mode == "verify"
    assert batch.input_ids.reshape(2, NODES)[0].tolist() == [3, 4, 1, 2, 3, 4, 1, 2, 0]
    assert batch.input_ids.reshape(2, NODES)[1].tolist() == [7, *[0] * 8]
    assert info.retrieve_next_token.tolist() == [[*range(1, NODES), -1]] * 2
    assert info.positions.reshape(2, NODES).tolist() == [list(range(6, 15)), list(range(2, 11))]
    made._update_ngram_corpus(batch)
    made.clear_cache_pool()
    assert made.drafts.proposer.rows.nbytes == 0
