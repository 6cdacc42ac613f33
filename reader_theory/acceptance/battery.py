"""The public battery for acceptance models: what the words of `AcceptanceModel` mean, run on yours."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from reader_theory.acceptance.base import AcceptanceModel, PathwiseModel, model_from_dict
from reader_theory.acceptance.replay import replay
from reader_theory.acceptance.simulated import simulated_trace
from reader_theory.documents.policy import Chain, Static
from reader_theory.documents.trace import Trace
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import siblings_sum

__all__ = ["check_acceptance_model"]

_SLACK = 1e-9
_CONTEXTS = (None, 1.0, 1e3, 1e6)


def check_acceptance_model(model: AcceptanceModel, *, trees: int = 30, seed: int = 0) -> None:
    """Check a model on random trees, and its `fit` on a trace of independent positions.

    Parameters
    ----------
    model : AcceptanceModel
    trees : int
        Random trees to check it on, besides the empty one and chains.
    seed : int

    Raises
    ------
    AssertionError
        With the claim that fails and the evidence.
    """
    for tree in _trees(model, trees, np.random.default_rng(seed)):
        for context_tokens in _CONTEXTS:
            _check_probabilities(model, tree, context_tokens)
        _check_value(model, tree)
        _check_order(model, tree)
    _check_document(model)
    _check_fit(type(model))


def _holds(claim: str, condition: bool, evidence: object) -> None:
    if not condition:
        raise AssertionError(f"an acceptance model must hold: {claim}. Got {evidence}.")


def _trees(model: AcceptanceModel, trees: int, generator: np.random.Generator) -> Iterator[TokenTree]:
    yield TokenTree.empty()
    for source in model.sources:
        yield TokenTree.chain(1, source)
        yield TokenTree.chain(12, source)
    for _ in range(trees):
        yield _random_tree(generator, int(generator.integers(1, 16)), model.sources[0])


def _random_tree(generator: np.random.Generator, nodes: int, source: str) -> TokenTree:
    return TokenTree([-1, *(int(generator.integers(0, node)) for node in range(1, nodes + 1))], sources=source)


def _check_probabilities(model: AcceptanceModel, tree: TokenTree, context_tokens: float | None) -> None:
    path = model.path_probability(tree, context_tokens=context_tokens)
    where = f"{path} on parents {tree.parents.tolist()} at context {context_tokens}"
    _holds("one float64 a node", path.shape == (len(tree),) and path.dtype == np.float64, where)
    _holds("path probabilities lie in [0, 1]", bool(np.all((path >= 0) & (path <= 1 + _SLACK))), where)
    above = np.where(tree.parents >= 0, path[tree.parents], 1.0)
    _holds("the root is always emitted", abs(path[0] - 1) <= _SLACK, where)
    _holds("no path is likelier than the path to its parent", bool(np.all(path <= above + _SLACK)), where)
    below = siblings_sum(tree, path)
    _holds("siblings share their parent's probability", bool(np.all(below <= path + _SLACK)), where)
    if isinstance(model, PathwiseModel):
        conditional = model.conditional(tree, context_tokens=context_tokens)
        _holds("a path is the product of its conditionals", bool(np.allclose(path, above * conditional)), where)


def _check_value(model: AcceptanceModel, tree: TokenTree) -> None:
    value = model.tokens_per_step(tree)
    expected = float(model.path_probability(tree).sum())
    _holds("tokens a step are the sum of path probabilities", abs(value - expected) < 1e-9, (value, expected))
    _holds("a step emits between 1 and depth + 1 tokens", 1 <= value <= tree.depth + 1 + _SLACK, value)
    smaller = tree.prune(nodes=tree.nodes - 1)
    _holds(
        "another node never lowers the value", model.tokens_per_step(smaller) <= value + _SLACK, tree.parents.tolist()
    )


def _check_order(model: AcceptanceModel, tree: TokenTree) -> None:
    value, again = model.tokens_per_step(tree), model.tokens_per_step(tree.by_level())
    _holds("the order of nodes does not matter", abs(value - again) < 1e-9, (value, again))


def _check_document(model: AcceptanceModel) -> None:
    again = model_from_dict(json.loads(json.dumps(model.to_dict())))
    tree = TokenTree.chain(5, model.sources[0])
    same = np.array_equal(model.path_probability(tree), again.path_probability(tree))
    _holds(
        "a model survives `to_dict`, JSON and `model_from_dict`", type(again) is type(model) and same, model.to_dict()
    )


def _check_fit(kind: type[AcceptanceModel]) -> None:
    """On independent positions every model's chain of three agrees with the exact replay."""
    trace = simulated_trace(prompts=100, tokens=400, seed=1)
    if kind.sources == ("retrieval",):
        trace, chain = _independent_copies(trace), Chain(min_match=1, offset=3, factor=0, max_tokens=3)
        replayed = replay(trace, chain).tokens_per_step
    else:
        replayed = replay(trace, Static.of(TokenTree.chain(3))).tokens_per_step
    predicted = kind.fit(trace).tokens_per_step(TokenTree.chain(3, kind.sources[0]))
    near = abs(predicted / replayed - 1) < 0.02
    _holds("its fit predicts the trace it was fitted on within 2 %", near, (predicted, replayed))


def _independent_copies(trace: Trace) -> Trace:
    """The trace with a match at 2 of 3 positions, and right copies of lengths that do not depend on one another."""
    generator, rows = np.random.default_rng(2), len(trace.columns["prompt"])
    length = generator.integers(0, 3, rows)
    run = np.where(length > 0, np.minimum(generator.geometric(1 - 0.2 * length, rows) - 1, 8), 0)
    fresh = {
        "retrieval_match": length,
        "retrieval_count": length > 0,
        "retrieval_offered": 8 * (length > 0),
        "retrieval_run": run,
    }
    columns = trace.columns | {name: column.astype(np.int32) for name, column in fresh.items()}
    kept = {name: getattr(trace, name) for name in ("stamp", "target", "temperature", "drafters", "prompts")}
    return Trace.in_memory(columns, **kept)
