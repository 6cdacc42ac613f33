"""A block drafts all its levels in one forward, as it declares; its acceptance by depth and flat cost are planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimizer.plan import make_plan
from optimizer.pool import Pool, limits_of
from proofs_tests.drafters.heads import KINDS, head_for, network_for
from proofs_tests.heads.test_head_training import trained
from proofs_tests.tiny import TREE, random_prompts, tiny_model
from reader_theory.acceptance import RankTable
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.acceptance.replay import replay
from reader_theory.documents import DraftForwards, Static, policy_of
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree
from runtime.drafters.head.checkpoint import is_head, load_head_network, save_head
from runtime.drafters.head.export import export_head
from runtime.drafters.head.model import HeadModel
from runtime.drafters.head.network import rotations
from runtime.drafters.head.unrolled import unrolled
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.record import trace_of
from runtime.models.base import Output
from runtime.models.load import wrap
from runtime.training.heads.making import continued
from runtime.training.heads.watching import embedding_of, laws_of

BLOCK = DraftForwards(kind="block", masks=1, rooted=True)


class Counted(HeadModel):
    """A head whose forwards are counted by their tokens a row."""

    asked: list[int]

    def forward(self, tokens: Any, *args: Any, **named: Any) -> Output:
        self.asked.append(tokens.shape[1])
        return super().forward(tokens, *args, **named)


@pytest.mark.parametrize("kind", ["post", "trimmed", "low rank"])
def test_a_block_that_begins_with_a_head_drafts_its_first_level_alike(kind: str) -> None:
    whole = tiny_model("llama")
    head = network_for(whole, **KINDS[kind])
    block = continued(head, 4)
    assert block.shape == replace(head.shape, block=4) and continued(block, 4) is block and continued(head, 0) is head
    tokens = torch.from_numpy(random_prompts(1)[0].tokens[None].astype(np.int64))
    hidden, _ = laws_of(whole, tokens, head)
    turns = rotations(head.shape, tokens.shape[1])
    embedding = embedding_of(whole, head)
    (theirs, _), (ours, _) = (next(unrolled(each, embedding, tokens, hidden, 2, turns)) for each in (head, block))
    assert torch.equal(head.lm_head(theirs), block.lm_head(ours))


@pytest.mark.parametrize("tree", [TokenTree.chain(4), TREE, TokenTree.chain(7)], ids=["chain", "tree", "too deep"])
def test_a_block_takes_one_forward_a_step_of_the_tokens_that_it_declares(tree: TokenTree) -> None:
    whole = tiny_model("llama")
    head = Counted(network_for(whole, block=4), whole.get_input_embeddings().weight, adaptive=False)
    head.asked = []
    engine = Engine(wrap(whole), head, policy=policy_of(tree), max_batch=1, max_context=96)
    assert engine.drafters["draft"].takes == BLOCK
    request = engine.add(random_prompts(1)[0].tokens, SamplingParams(max_new_tokens=20))
    engine.step()  # takes the prompt in
    widths = [1] * min(tree.depth, 4)
    while not request.done:
        head.asked.clear()
        drafter: Any = engine.drafters["draft"]
        pending = len(drafter.pending[0])
        engine.step()
        room = request.room
        if engine.forwards and room >= tree.depth:
            assert head.asked == BLOCK.sizes(widths, pending).tolist() == [int(each[0]) for each in engine.forwards]


def test_a_block_drafts_no_deeper_than_it_is_long() -> None:
    whole = tiny_model("llama")
    engine = Engine(wrap(whole), head_for(whole, block=2), policy=policy_of(TokenTree.chain(5)), max_context=96)
    seen: list[int] = []
    drafter: Any = engine.drafters["draft"]
    propose = drafter.propose

    def watched(*args: Any) -> Any:
        proposal = propose(*args)
        seen.append(int(proposal.trees.counts.max()) - 1)
        return proposal

    drafter.propose = watched
    engine.generate([random_prompts(1)[0].tokens], SamplingParams(max_new_tokens=12))
    assert max(seen) == 2


def test_a_block_cut_short_drafts_what_the_longer_one_did() -> None:
    whole = tiny_model("llama")
    head, text = head_for(whole, block=5), torch.arange(3, 15)
    hidden = torch.randn(11, 2, 64)
    for short, long in zip(head.ahead(text, hidden, 2), head.ahead(text, hidden, 5), strict=False):
        torch.testing.assert_close(short, long)


@pytest.mark.slow
def test_a_block_is_recorded_priced_and_planned_as_any_other() -> None:
    whole, prompts = tiny_model("llama"), random_prompts(8)
    target, block, head = wrap(whole), head_for(whole, block=4), head_for(whole, rank=6)
    engine = Engine(target, max_batch=4, max_context=96)
    done = engine.generate([p.tokens for p in prompts], SamplingParams(max_new_tokens=24))
    outputs = [np.array(one.tokens) for one in done]
    drafts = {"block": block, "head": head}
    trace = trace_of(target, drafts, prompts, outputs, candidates=16)
    assert trace.drafters["block"].forwards == BLOCK
    cost = calibrate_cost(
        target, drafts, prompts, device_name="here", dtype="float32", batches=(1, 2), tokens=(1, 3, 6), contexts=(32,),
        seconds=0.1,
    )  # fmt: skip
    fit = fit_acceptance(trace, resamples=100)
    plan = make_plan(fit, cost, trace, batches=[1], resamples=100, evaluations=300)
    assert {"block", "head", "retrieval", "off"} <= plan.entries[0].alternatives.keys()
    assert plan.entries[0].alternatives["block"].policy.tree.depth <= 4
    ranks = {name: RankTable.fit(trace.of(name)) for name in drafts}
    pool = Pool(trace, "random", ranks, (), limits_of(cost, trace, "random", 16, 12))
    depths = {name: max(each.tree.depth for each in pool.space.trees if each.drafter == name) for name in drafts}
    assert depths == {"block": 4, "head": 8}, "trees go as deep as was recorded, chains too"
    deepest = Static.of(TokenTree.chain(4), "block")
    assert "depth of acceptance" in pool.binding(deepest)
    with pytest.raises(InvalidInputError, match="no deeper than the block"):
        replay(trace, Static.of(TokenTree.chain(5), "block"))


def test_a_blocks_folder_is_read_back_and_given_to_no_engine(tmp_path: Path) -> None:
    whole = tiny_model("llama")
    network = network_for(whole, block=3)
    save_head(network, tmp_path, target="tiny", architectures=[], steps=3, dtype=torch.float32)
    assert is_head(tmp_path)
    loaded = load_head_network(tmp_path)
    assert loaded.shape == replace(network.shape, rope=loaded.shape.rope)
    assert loaded.mask_embed is not None and network.mask_embed is not None
    assert torch.equal(loaded.mask_embed, network.mask_embed)
    with pytest.raises(InvalidInputError, match="draft from its own states"):
        export_head(tmp_path, tmp_path / "vllm", "vllm")
    assert not (tmp_path / "vllm").exists()


def test_training_a_block_raises_acceptance_beyond_the_first_level(tmp_path: Path) -> None:
    whole, tokens, seen = tiny_model("llama"), torch.arange(5, 29), list[list[float]]()
    with torch.no_grad():
        out = whole(tokens[None], output_hidden_states=True)
    hidden = torch.stack([out.hidden_states[layer] for layer in (0, 1)], dim=2)[0, :-1]
    for updates in (1, 60):
        network, _ = trained(tmp_path / str(updates), updates, block=3)
        head = HeadModel(network.eval(), whole.get_input_embeddings().weight, adaptive=False)
        laws = [out.logits[0, 1 + depth : -1].softmax(-1) for depth in range(3)]
        drafted = [logits[:-1].softmax(-1) for logits in head.ahead(tokens, hidden, 3)]
        seen.append([float(torch.minimum(*pair).sum(-1).mean()) for pair in zip(laws, drafted, strict=True)])
    assert all(after > before + 0.01 for before, after in zip(*seen, strict=True))
