r"""PPOW: a head trained on the reward of its own rollouts, by policy gradient, on windows of a text.

A window is a place where a round begins; a group of rollouts of K tokens is drawn there from the head itself, and the
target's laws along each say how likely k of them are accepted (``min(1, p / q)``, one after the other). The reward is
``k / (gamma k + 1)``, or the round's own speed-up ``(k + 1) / (gamma K + 1)``. The surrogate's gradient is that of the
expected reward, without bias: each token's log-probability times what its path earns after it beyond the rest of its
group (its own left out), and the gradient of acceptance itself, in which q stands too. Whether the next token is
accepted is not left to the one that was drawn: all of them are summed over, ``sum min(p, q)``, so that of a rollout
only the path to a place is chance, and its last token need not be drawn.

Windows are drawn alike, or adaptively, in proportion to the mean over the window of
``(1 - H(P) / log V) KL(P || Q)``: where the target is sure and the draft is not with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from runtime.drafters.head.network import HeadNetwork
from runtime.drafters.head.unrolled import attended, projected

__all__ = [
    "REWARDS", "choose_windows", "expected_reward", "named", "priorities", "rollouts", "surrogate",
    "window_laws",
]  # fmt: skip

GAMMA = 0.12
"""Cost of one draft token in the reward, over that of a verification."""
GROUP = 8
"""Rollouts of a window."""
PROXIMITY = 0.1
"""Of the reward of one accepted token, what a first token that is rejected may earn by the target's own law."""

REWARDS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "accepted": lambda k, _drafted: k / (GAMMA * k + 1.0),
    "speed_up": lambda k, drafted: (k + 1.0) / (GAMMA * drafted + 1.0),
}
"""Reward of k accepted tokens, of so many drafted."""


def _gains(
    log_q: torch.Tensor, target: torch.Tensor, drawn: torch.Tensor, likeliest: torch.Tensor, reward: str
) -> torch.Tensor:
    """(..., K) what each depth adds to the expected reward of k = 0, given the path before it."""
    depth, q = log_q.shape[-2], log_q.exp()
    told = REWARDS[reward](torch.arange(depth + 1, dtype=log_q.dtype, device=log_q.device), depth)
    along = _drawn_of(target, drawn) / _drawn_of(log_q, drawn).exp().clamp_min(1e-30)
    reached = torch.nn.functional.pad(along.clamp(max=1.0).cumprod(-1), (1, 0), value=1.0)
    gains = (told[1:] - told[:-1]) * reached * torch.minimum(q, target).sum(-1)
    first, law = q[..., 0, :], target[..., 0, :]
    near = ((first - law).clamp_min(0.0) * law).sum(-1, keepdim=True) / likeliest[..., None, None]
    return torch.cat((gains[..., :1] + PROXIMITY * (told[1] - told[0]) * near, gains[..., 1:]), dim=-1)


def _drawn_of(laws: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """(..., K - 1) what laws say of the tokens that were drawn from them."""
    return laws[..., :-1, :].gather(-1, drawn.unsqueeze(-1)).squeeze(-1)


def expected_reward(
    log_q: torch.Tensor, target: torch.Tensor, drawn: torch.Tensor, likeliest: torch.Tensor, reward: str = "accepted"
) -> torch.Tensor:
    """(..., G) reward of paths, in the mean over what of them is accepted; arguments as for `surrogate`."""
    nothing = REWARDS[reward](torch.zeros((), dtype=log_q.dtype, device=log_q.device), log_q.shape[-2])
    return nothing + _gains(log_q, target, drawn, likeliest, reward).sum(-1)


def surrogate(
    log_q: torch.Tensor, target: torch.Tensor, drawn: torch.Tensor, likeliest: torch.Tensor, reward: str = "accepted"
) -> torch.Tensor:
    """(...) values whose gradient is, in the mean over rollouts, that of the expected reward of each window.

    Parameters
    ----------
    log_q : (..., G, K, V), with a gradient
        The head's log-laws at each place of a path, over its own vocabulary.
    target : (..., G, K, V)
        The target's probabilities there of the same tokens.
    drawn : (..., G, K - 1) int64
        Which of them each path took.
    likeliest : (...)
        Probability of the target's likeliest first token: over it, that of a first token which is rejected is what is
        earned where none is accepted.
    reward : str
        One of `REWARDS`.
    """
    gains = _gains(log_q, target, drawn, likeliest, reward)
    after = gains[..., 1:].flip(-1).cumsum(-1).flip(-1).detach()
    group = after.shape[-2]
    advantage = (after - after.mean(-2, keepdim=True)) * (group / max(group - 1, 1))
    return ((advantage * _drawn_of(log_q, drawn)).sum(-1) + gains.sum(-1)).mean(-1)


def priorities(law: torch.Tensor, logits: torch.Tensor, length: int) -> torch.Tensor:
    """(B, T) priority of a window of `length` places that begins at each: the mean of their weights.

    Parameters
    ----------
    law : (B, T, V)
        Of the target.
    logits : (B, T, V)
        Of the head's first draft.
    """
    law = law.float()
    logs = law.clamp_min(1e-30).log()
    entropy = -(law * logs).sum(-1)
    apart = (law * (logs - logits.log_softmax(-1, dtype=torch.float32))).sum(-1).clamp_min(0.0)
    sure = (1.0 - entropy / torch.tensor(float(law.shape[-1])).log()).clamp_min(0.0)
    return torch.nn.functional.pad(sure * apart, (0, length - 1)).unfold(-1, length, 1).mean(-1)


def choose_windows(
    priority: torch.Tensor, allowed: torch.Tensor, count: int, windows: str, generator: torch.Generator | None = None
) -> torch.Tensor:
    """(B, W) places where windows begin, each once; W is `count`, or what the row with the fewest places has.

    Parameters
    ----------
    priority : (B, T)
        Read by adaptive windows alone.
    windows : str
        "uniform" or "adaptive".
    allowed : (B, T) bool
        Places where a window may begin; at least one a row.
    """
    chance = priority.clamp_min(0.0) + 1e-6 if windows == "adaptive" else torch.ones_like(priority)
    most = min(count, int(allowed.sum(1).min()))
    return torch.multinomial(chance * allowed, most, generator=generator)


def rollouts(
    network: HeadNetwork,
    embedding: torch.Tensor,
    tokens: torch.Tensor,
    hidden: torch.Tensor,
    starts: torch.Tensor,
    depth: int,
    turns: torch.Tensor,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The head's log-laws along rollouts, (B, W, G, K, V) with their gradient, and what it drew, (B, W, G, K - 1).

    Both in the head's own vocabulary; the last token is not drawn, as nothing follows it.

    Parameters
    ----------
    embedding, tokens, hidden, turns
        As `unrolled` takes them.
    starts : (B, W)
        Entries after which rounds begin: one at entry t drafts token t + 2.
    depth : int
        K.
    """
    batch, count = starts.shape
    entered, states = embedding[tokens[:, 1:]], network.taken(hidden[:, :-1])
    read, residual = network.entered(entered, states)
    _, keys, values = projected(network, read, turns[:, : entered.shape[1]])
    rows, flat = torch.arange(batch, device=tokens.device).repeat_interleave(count), starts.flatten()
    past = (torch.arange(entered.shape[1], device=tokens.device) <= flat[:, None])[:, None, None, None]
    read, residual = (each[rows, flat].unsqueeze(1).expand(-1, GROUP, -1) for each in (read, residual))
    own: list[tuple[torch.Tensor, torch.Tensor]] = []
    drawn, laws = list[torch.Tensor](), list[torch.Tensor]()
    for step in range(depth):
        q, key, value = projected(network, read, turns[:, flat + step][:, :, None, None])
        own += [(key, value)] if step else []
        out, states = network.left(residual, attended(q, keys[rows], values[rows], past, own))
        laws.append(network.lm_head(out).log_softmax(-1, dtype=torch.float32))
        if step == depth - 1:
            break
        drawn.append(
            torch.multinomial(laws[-1].detach().exp().flatten(0, 1), 1, generator=generator).view(out.shape[:2])
        )
        masks = network.mask_embed
        after = (
            (embedding[named(network, drawn[-1])], states) if masks is None else [m.expand_as(states) for m in masks]
        )
        read, residual = network.entered(*after)
    took = torch.stack(drawn, -1) if drawn else flat.new_zeros((len(flat), GROUP, 0))
    return torch.stack(laws, -2).view(batch, count, GROUP, depth, -1), took.view(batch, count, GROUP, depth - 1)


def named(network: HeadNetwork, drawn: torch.Tensor) -> torch.Tensor:
    """Tokens of the head's own vocabulary as the target names them."""
    return drawn if network.ids is None else network.ids[drawn]


@torch.no_grad()
def window_laws(
    target: Any, tokens: torch.Tensor, starts: torch.Tensor, drawn: torch.Tensor, ids: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's laws along rollouts, (B, W, G, K, V), and the probability of its likeliest first token, (B, W).

    One forward over the text with all rollouts behind it, each of which sees the text up to its window, and itself.

    Parameters
    ----------
    drawn : (B, W, G, K - 1)
        The rollouts' tokens, as the target names them.
    ids : (V,), optional
        Tokens that are asked for; all, where it is left out.
    """
    (batch, length), (_, count, group, further) = tokens.shape, drawn.shape
    device = tokens.device
    text, order = torch.arange(length, device=device), torch.arange(further, device=device)
    last = (starts + 1)[:, :, None, None].expand(drawn.shape).flatten(1)
    joined = torch.cat((tokens, drawn.flatten(1)), dim=1)
    order = order.repeat(count * group)
    positions = torch.cat((text.expand(batch, -1), last + 1 + order), dim=1)
    own = torch.arange(count * group, device=device).repeat_interleave(further)
    allowed = torch.zeros((batch, joined.shape[1], joined.shape[1]), dtype=torch.bool, device=device)
    allowed[:, :length, :length] = text <= text[:, None]
    allowed[:, length:, :length] = text <= last[:, :, None]
    allowed[:, length:, length:] = (own == own[:, None]) & (order <= order[:, None])
    mask = torch.zeros(allowed.shape, dtype=target.dtype, device=device)
    mask = mask.masked_fill(~allowed, torch.finfo(target.dtype).min)[:, None]
    base, head = target.get_decoder(), target.get_output_embeddings()
    out = base(input_ids=joined, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    first = head(out[torch.arange(batch, device=device)[:, None], starts + 1]).softmax(-1, dtype=torch.float32)
    later = head(out[:, length:]).softmax(-1, dtype=torch.float32)
    asked = slice(None) if ids is None else ids
    begun = first[..., asked][:, :, None, None].expand(-1, -1, group, -1, -1)
    after = later[..., asked].view(batch, count, group, further, -1)
    return torch.cat((begun, after), dim=3), first.amax(-1)
