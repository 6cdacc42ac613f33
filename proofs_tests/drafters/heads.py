"""Small heads with random weights for tiny targets, and what such a head must draft, worked out from its definition.

The definition is run without any cache: all pairs of a row once more for every token drafted, with the hidden states
that transformers gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from proofs_tests.tiny import tiny_model
from runtime.drafters.base import Proposal
from runtime.drafters.head.model import HeadModel
from runtime.drafters.head.network import HeadNetwork, rotated, rotations
from runtime.drafters.head.shape import HeadShape
from runtime.drafters.neural import NeuralDrafter
from runtime.models.load import wrap

KINDS: dict[str, dict[str, Any]] = {
    "post": {},
    "pre": {"fc_norm": False, "norm_output": False},
    "before fc, normed residual": {"fc_norm": False, "norm_before_fc": True, "norm_before_residual": True},
    "low rank": {"rank": 6},
    "trimmed": {"draft_vocabulary": 40},
    "thin": {"width": 32, "heads": 2, "kv_heads": 1, "own_embedding": True},
    "block": {"block": 4},
}


def network_for(whole: Any, seed: int = 1, **changes: Any) -> HeadNetwork:
    """A random head for a transformers model, sharp enough that its likeliest tokens have no ties."""
    torch.manual_seed(seed)
    shape = HeadShape.of(whole.config, layers=(0, 1), **changes)
    ids = None
    if shape.trimmed:
        ids = torch.randperm(shape.vocabulary)[: shape.draft_vocabulary].sort().values
    network = HeadNetwork(shape, ids)
    for parameter in network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
        else:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return network.eval().requires_grad_(False)


def head_for(whole: Any, seed: int = 1, **changes: Any) -> HeadModel:
    """The same as a model that drafts."""
    return HeadModel(network_for(whole, seed, **changes), whole.get_input_embeddings().weight, adaptive=False)


class Defined:
    """What a head drafts after a text, by definition."""

    def __init__(self, whole: Any, head: HeadModel) -> None:
        self.whole, self.head = whole, head
        self.turns = rotations(head.shape, 256)

    @torch.no_grad()
    def logits(self, text: Sequence[int], path: Sequence[int]) -> torch.Tensor:
        """(V,) logits of the token after `text` and the drafted `path`."""
        network = self.head.network
        out = self.whole(torch.tensor([list(text)]), output_hidden_states=True)
        hidden = torch.stack([out.hidden_states[layer] for layer in network.shape.layers], dim=2)[0]
        states, embedded = list(network.taken(hidden[:-1])), list(self.head.embedding[torch.tensor(text[1:])])
        normed, left = self._last(embedded, states)
        for token in path:
            known = (self.head.embedding[token], left)
            token_at, state = known if network.mask_embed is None else network.mask_embed
            embedded.append(token_at)
            states.append(state)
            normed, left = self._last(embedded, states)
        logits = network.lm_head(normed)
        if network.ids is None:
            return logits
        return logits.new_full((network.shape.vocabulary,), -torch.inf).index_put((network.ids,), logits)

    def _last(self, embedded: list[torch.Tensor], states: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        network, shape = self.head.network, self.head.shape
        attention, count = network.layer.self_attn, len(embedded)
        read, residual = network.entered(torch.stack(embedded), torch.stack(states))
        q, k, v = (
            projection(read).view(count, -1, shape.head_dim).transpose(0, 1)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        turns = self.turns[:, :count]
        q, k = rotated(q, turns)[:, -1:], rotated(k, turns)
        group = shape.heads // shape.kv_heads
        k, v = (x.repeat_interleave(group, 0) for x in (k, v))
        weights = (q @ k.mT * shape.head_dim**-0.5).softmax(-1)
        normed, left = network.left(residual[-1], (weights @ v).flatten())
        return normed, left


class Checked(NeuralDrafter):
    """A drafter whose every tree is held against the definition."""

    def __init__(self, model: HeadModel, defined: Defined) -> None:
        super().__init__(model)
        self.defined, self.looked = defined, 0

    def propose(self, policy: Any, rows: Any, spare: Any) -> Proposal:
        proposal = super().propose(policy, rows, spare)
        for row, request in enumerate(rows):
            count = int(proposal.trees.counts[row])
            tokens, parents = (x[row, :count].tolist() for x in (proposal.trees.tokens, proposal.trees.parents))
            self._check(request.text, tokens, parents, policy.tree)
        return proposal

    def _check(self, text: list[int], tokens: list[int], parents: list[int], tree: Any) -> None:
        tree = tree.by_level()
        for node in sorted({parent for parent in parents if parent >= 0}):
            path, above = [], node
            while above > 0:
                path.append(tokens[above])
                above = parents[above]
            order = torch.argsort(self.defined.logits(text, path[::-1]), descending=True)
            for child in [n for n, parent in enumerate(parents) if parent == node]:
                expected = int(order[int(tree.ranks[child])])
                assert tokens[child] == expected, f"{tokens[child]} drafted, {expected} by definition"
                self.looked += 1


def checked_run(
    engine_of: Callable[..., Any], policy: Any, prompts: Sequence[Any], lengths: Sequence[int], **changes: Any
) -> tuple[list[list[int]], int]:
    """Texts of an engine whose drafts are checked at every step, and how many drafted tokens were."""
    from runtime.engine.sampling import SamplingParams

    whole = tiny_model("llama")
    head = head_for(whole, **changes)
    drafter = Checked(head, Defined(whole, head))
    engine = engine_of(wrap(whole), drafters={"draft": drafter}, policy=policy, max_batch=3, max_context=128)
    params = [SamplingParams(max_new_tokens=length) for length in lengths]
    done = engine.generate([np.asarray(prompt) for prompt in prompts], params)
    assert all(one.finish == "length" for one in done), [one.finish for one in done]
    return [list(one.tokens) for one in done], drafter.looked
