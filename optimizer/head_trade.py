"""What a plan says of drafters that differ in their output heads alone: SlimSpec's trade, from counts and seconds.

Prefer it to explain a choice among heads; the choice itself is by whole steps. kappa and nu come from the cost's terms
in one and the same round, rho_tau from replays of it.
"""

from __future__ import annotations

from optimizer.forecast import step_forecast
from reader_theory.acceptance.replay import ReplayResult
from reader_theory.cost.head import HeadTrade
from reader_theory.documents import Cost, Policy

__all__ = ["full_head", "head_trade"]


def full_head(cost: Cost) -> str | None:
    """The drafter with the dearest output head, which the others are held against; None with fewer than two."""
    heads = {name: each.output.weights for name, each in cost.drafters.items() if each.output and each.head}
    return max(heads, key=lambda name: heads[name]) if len(heads) > 1 else None


def head_trade(
    cost: Cost, full: Policy, of_full: ReplayResult, slim: Policy, of_slim: ReplayResult, batch: int, context: float
) -> HeadTrade:
    """The trade between one policy asked of two drafters.

    Parameters
    ----------
    full, slim : Policy
        The same tree, of the drafter with the full output head and of the other.
    of_full, of_slim : ReplayResult
        What each did on the same prompts.
    batch, context
        Of the round.
    """
    assert full.asks is not None and slim.asks is not None, "both policies draft"
    terms = step_forecast(cost, full, of_full, batch, context).terms_s
    less = step_forecast(cost, slim, of_slim, batch, context).terms_s
    head = terms[f"{full.asks} head"]
    return HeadTrade(
        rho_tau=of_slim.tokens_per_step / of_full.tokens_per_step,
        nu=less[f"{slim.asks} head"] / head,
        kappa=head / (sum(terms.values()) - head),
    )
