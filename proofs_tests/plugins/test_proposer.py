"""One proposer: what our engine drafts by a policy, from nothing but texts, in an environment without torch."""

from __future__ import annotations

import gc
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from proofs_tests.documents.documents_examples import entry, plan
from proofs_tests.plugins.batches import VOCABULARY, Rows, random_steps
from proofs_tests.tiny import TREE, random_prompts, tiny_model
from reader_theory.documents import Chain, Grown, Off, Policy, SourceMap, Static, policy_of
from reader_theory.errors import DocumentError, InvalidInputError
from reader_theory.trees import TokenTrees
from runtime.drafters.base import Drafter
from runtime.drafters.grown import GrownDrafter
from runtime.drafters.retrieval import RetrievalDrafter
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.load import wrap
from runtime.plugins.llama_cpp import LlamaDraft
from runtime.plugins.proposer import Proposer
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.followed import Followed, Texts
from runtime.retrieval.index import RetrievalIndex

HOUSE = Path(__file__).parents[2]
OWN = Chain(min_match=1, offset=1, factor=2.0, max_tokens=8)
STORED = Chain(drafter="datastore", min_match=1, offset=1, factor=2.0, max_tokens=8)
GROWN = Grown(drafter=None, nodes=8, price=0.05)
STORED_GROWN = Grown(drafter=None, retrieval="datastore", nodes=8, price=0.05)
POLICIES = {"own": OWN, "stored": STORED, "grown": GROWN, "grown from a store": STORED_GROWN}


@cache
def past() -> Datastore:
    rng = np.random.default_rng(5)
    return Datastore.build([np.resize(rng.integers(0, VOCABULARY, 9), 40) for _ in range(30)])


def proposer_of(policy: Any, **limits: Any) -> Proposer:
    stored = any("datastore" in each.drafters for each in _policies(policy))
    return Proposer(policy, datastore=past() if stored else None, **limits)


def _policies(policy: Any) -> list[Policy]:
    return [each.policy for each in policy.entries] if hasattr(policy, "entries") else [policy]


def anew(policy: Policy, text: list[int] | NDArray[np.integer], most: int) -> list[int]:
    """The chain of a policy, from an index made for this text alone."""
    index = RetrievalIndex(np.array(text, np.int32), past() if "datastore" in policy.drafters else None)
    if most <= 0 or isinstance(policy, Off):
        return []
    if isinstance(policy, Grown):
        return index.grow(min(most, policy.nodes), policy.price, single=True).tokens[0].tolist()
    assert isinstance(policy, Chain)
    if policy.drafter == "retrieval":
        cap = min(policy.cap(index.match_length), most)
        return index.chain(cap).tolist() if cap > 0 else []
    chain, match = index.likeliest(policy.max_tokens)
    return chain[: min(policy.cap(match), most)].tolist()


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "scipy", "pyarrow", "typer", "rich", "prometheus_client"}:
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Block())
import numpy as np
from reader_theory.documents import Chain
from runtime.plugins import llama_cpp, sglang, vllm
from runtime.plugins.proposer import Proposer
draft = llama_cpp.LlamaDraft(Proposer(Chain(min_match=2, factor=1.0, max_tokens=8)))
print(draft(np.array([5, 6, 7, 8, 9, 5, 6, 7], np.intc)).tolist())
"""


def test_proposer_and_adapters_need_numpy_numba_and_pydantic_alone() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], cwd=HOUSE, capture_output=True, text=True)
    assert done.stdout.strip() == "[8, 9, 5]", done.stderr


@pytest.mark.parametrize("name", POLICIES)
def test_a_proposal_is_that_of_an_index_made_anew(name: str) -> None:
    policy = POLICIES[name]
    proposer, rng = proposer_of(policy), np.random.default_rng(1)
    texts = [np.resize(rng.integers(0, VOCABULARY, 7), n) for n in (1, 9, 30, 61)]
    for _ in range(20):
        room = rng.integers(0, 10, len(texts))
        found = proposer.chains(Texts.of_rows(texts), room)
        assert found == [anew(policy, text, int(most)) for text, most in zip(texts, room, strict=True)]
        texts = [np.concatenate((text, rng.integers(0, VOCABULARY, rng.integers(1, 4)))) for text in texts]


UNASKED = SourceMap(offer="retrieval unasked", score=(0.1, 0.6), acceptance=(0.3, 0.9))
WHOLE = Grown(drafter=None, nodes=8, price=0.0, maps=(UNASKED,))


@pytest.mark.parametrize(("policy", "drafter"), [(OWN, RetrievalDrafter), (WHOLE, GrownDrafter)])
def test_what_is_proposed_is_what_our_engine_drafts(
    policy: Policy, drafter: type[Drafter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step of a run: the same trees for the same texts."""
    asked: list[tuple[Texts, NDArray[np.int64], TokenTrees]] = []
    drafts = drafter.propose

    def watched(self: Any, chosen: Any, rows: Any, spare: Any) -> Any:
        made = drafts(self, chosen, rows, spare)
        room = np.array([min(row.room - 1, left) for row, left in zip(rows, spare, strict=True)])
        asked.append((Texts.of_rows([np.array(row.text) for row in rows]), room, made.trees))
        return made

    monkeypatch.setattr(drafter, "propose", watched)
    engine = Engine(wrap(tiny_model("llama")), max_batch=3, max_context=160, policy=policy)
    engine.generate([prompt.tokens for prompt in random_prompts(5)], SamplingParams(max_new_tokens=40))
    proposer = proposer_of(policy)
    for texts, room, theirs in asked:
        ours = proposer.trees(texts, np.full(len(room), 8)).prune(depth=room)
        assert [tree.tokens.tolist() for tree in ours] == [tree.tokens.tolist() for tree in theirs]
        assert [tree.parents.tolist() for tree in ours] == [tree.parents.tolist() for tree in theirs]
    assert sum(int(theirs.counts.sum()) - len(theirs) for _, _, theirs in asked) > 50


def test_a_plan_decides_by_rows_and_context() -> None:
    short = Chain(min_match=1, offset=2, factor=0, max_tokens=2)
    told = plan(entry(1, OWN), entry(2, short), entry(8, Off()), draft=None)
    proposer = Proposer(told)
    text = np.array([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], np.int32)
    for rows, policy in ((1, OWN), (2, short), (3, Off()), (9, Off())):
        found = proposer.chains(Texts.of_rows([text] * rows), np.full(rows, 9))
        assert found == [anew(policy, text, 9)] * rows


def test_rows_without_a_text_do_not_count_as_rows() -> None:
    told = plan(entry(1, OWN), entry(2, Off()), draft=None)
    text = np.array([1, 2, 3, 1, 2], np.int32)
    found = Proposer(told).chains(Texts.of_rows([text, text[:0], text[:0]]), np.full(3, 9))
    assert found == [anew(OWN, text, 9), [], []]


@pytest.mark.parametrize("kinds", [2, 5, 300])
def test_a_text_that_is_searched_gives_the_chain_of_its_index(kinds: int) -> None:
    """Of every length, with few and many tokens, and chains that outlast what they copy."""
    rng, policy = np.random.default_rng(kinds), Chain(min_match=1, offset=0, factor=1.5, max_tokens=40)
    texts = [rng.integers(0, kinds, n).astype(np.int32) for n in [*range(70), 300, 900]]
    texts += [np.resize(text[: n % 37 + 1], n).astype(np.int32) for n, text in enumerate(texts) if len(text)]
    room = rng.integers(-1, 45, len(texts))
    found = Proposer(policy).chains(Texts.of_rows(texts), room)
    assert found == [anew(policy, text, int(most)) for text, most in zip(texts, room, strict=True)]
    assert max(map(len, found)) > 30


@pytest.mark.parametrize("policy", [OWN, GROWN, STORED])
def test_no_token_is_proposed_that_the_engine_does_not_know(policy: Policy) -> None:
    text = np.array([3, 50, 4, 5, 3, 50, 4, 5, 3], np.int32)
    limit = VOCABULARY if policy is STORED else 45
    proposer = proposer_of(policy, vocabulary=limit)
    found = proposer.chains(Texts.of_rows([text]), np.array([8]))[0]
    assert all(token < limit for token in found)
    trees = proposer.trees(Texts.of_rows([text, text[:5]]), np.array([8, 8]))
    assert all((tree.tokens[1:] < limit).all() for tree in trees)


def test_a_text_that_is_no_tokens_costs_nobody_else_anything() -> None:
    proposer = Proposer(OWN)
    good, bad = np.array([1, 2, 3, 1, 2], np.int32), np.array([1, 2, -1, 1, 2], np.int32)
    want = anew(OWN, good, 8)
    for texts in ([good, bad], [bad, good], [good, np.append(good, -1)]):
        found = proposer.chains(Texts.of_rows(texts), np.full(2, 8))
        assert found == [want if text is good else [] for text in texts]


def test_an_index_goes_wherever_its_text_goes() -> None:
    followed, rng = Followed(), np.random.default_rng(0)
    texts = [rng.integers(0, 9, 20).astype(np.int32) for _ in range(4)]
    first = list(followed.follow(Texts.of_rows(texts)))
    order = [2, 0, 3]
    later = followed.follow(Texts.of_rows([np.append(texts[row], 1).astype(np.int32) for row in order]))
    assert all(later[place] is first[row] for place, row in enumerate(order))
    longer = np.concatenate((texts[1], texts[1])).astype(np.int32)
    again = followed.follow(Texts.of_rows([longer]))
    assert again[0] not in first and again[0] is not None and again[0].tokens == 40
    assert followed.follow(Texts.of_rows([])) == [] and followed.nbytes == 0


def test_the_longest_of_several_beginnings_is_taken() -> None:
    followed = Followed()
    whole = np.arange(30, dtype=np.int32)
    short, long = followed.follow(Texts.of_rows([whole[:10], whole[:20]]))
    other = np.array([5, 5], np.int32)
    found = followed.follow(Texts.of_rows([other, other, whole]))
    assert found[2] is long and short not in found


def live_indices() -> int:
    gc.collect()
    return sum(type(each) is RetrievalIndex for each in gc.get_objects())


def test_nothing_grows_with_traffic() -> None:
    proposer, rows, drafts = Proposer(OWN), Rows(), [list[list[int]]()]
    proposer.scanned = 0
    before, counts = live_indices(), list[int]()
    for step in random_steps(rows, 400, 3, lambda: drafts[0]):
        lengths = np.where([bool(some) for some in step.sampled], rows.num_tokens_no_spec[: len(step.sampled)], 0)
        drafts[0] = proposer.chains(
            Texts.of_matrix(rows.token_ids_cpu, lengths.astype(np.int64)), np.full(len(lengths), 8)
        )
        counts.append(sum(index is not None for index in proposer.rows.indices))
        assert counts[-1] <= np.count_nonzero(lengths)
    assert max(counts) > 6 and live_indices() - before <= counts[-1]
    proposer.clear()
    assert live_indices() == before


def test_a_llama_is_drafted_for_across_requests() -> None:
    draft, rng = LlamaDraft(Proposer(OWN)), np.random.default_rng(2)
    for _ in range(20):
        text = np.resize(rng.integers(0, VOCABULARY, 6), rng.integers(1, 40)).astype(np.intc)
        for _ in range(6):
            found = draft(text)
            assert found.dtype == np.intc and found.tolist() == anew(OWN, text, 8)
            text = np.concatenate((text, found[: rng.integers(0, len(found) + 1)], [rng.integers(VOCABULARY)]))
            text = text.astype(np.intc)
        assert len(draft.proposer.rows.indices) == 1


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (policy_of(TREE), "tree"),
        (Static.of(TREE), "look-ups alone"),
        (policy_of(TREE, OWN), "look-ups alone"),
        (Grown(nodes=4, levels=2), "asks 'draft'"),
        (STORED, "READER_DATASTORE"),
        (plan(entry(1, OWN), entry(1, OWN, workload="code"), draft=None), "READER_WORKLOAD"),
    ],
)
def test_what_cannot_be_proposed_is_refused_before_work_starts(policy: Any, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        Proposer(policy)


def test_settings_come_from_the_engine_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = np.array([1, 2, 3, 1, 2], np.int32)
    one, other = plan(entry(1, OWN), draft=None), plan(entry(1, STORED), entry(1, Off(), workload="code"), draft=None)
    paths = [each.write(tmp_path / f"{name}.json") for name, each in (("one", one), ("other", other))]
    store = past().save(tmp_path / "past.datastore")
    with pytest.raises(InvalidInputError, match="READER_PLAN"):
        Proposer.configured({})
    with pytest.raises(InvalidInputError, match="among plan, workload, datastore"):
        Proposer.configured({"plan": str(paths[0]), "price": 1})
    monkeypatch.setenv("READER_PLAN", str(paths[0]))
    assert Proposer.configured({}).chains(Texts.of_rows([text]), np.array([8]))[0] == anew(OWN, text, 8)
    named = {"plan": str(paths[1]), "workload": "chat", "datastore": str(store)}
    assert Proposer.configured(named).chains(Texts.of_rows([text]), np.array([8]))[0] == anew(STORED, text, 8)
    with pytest.raises(DocumentError, match="the datastore must exist"):
        Proposer.configured(named | {"datastore": "nowhere"})
    paths[0].write_text("{}")
    with pytest.raises(DocumentError):
        Proposer.configured({})


def test_an_engine_that_takes_fewer_tokens_gets_fewer(caplog: pytest.LogCaptureFixture) -> None:
    text = np.array([1, 2, 3, 4, 1, 2, 3], np.int32)
    found = Proposer(OWN, most_tokens=3).chains(Texts.of_rows([text]), np.array([99]))[0]
    assert found == anew(OWN, text, 3) and "up to 8 tokens, the engine takes 3" in caplog.text
