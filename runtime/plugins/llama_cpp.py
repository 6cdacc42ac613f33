"""llama-cpp-python: drafts by our plan, as the draft model of a `Llama`. Chains, one request at a time.

    Llama("model.gguf", draft_model=LlamaDraft.from_plan("plan.json"))

Nothing of llama.cpp is imported.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from runtime.plugins.proposer import Proposer
from runtime.retrieval.followed import Texts

__all__ = ["LlamaDraft"]


class LlamaDraft:
    """What `Llama` calls with the tokens so far.

    Parameters
    ----------
    proposer : Proposer
        For one row; of this object alone.
    """

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer
        self._room = np.array([proposer.most_tokens])

    @classmethod
    def from_plan(cls, plan: str | None = None, **settings: str) -> Self:
        """By the plan in a file, or the environment's; settings as of `Proposer.configured`."""
        return cls(Proposer.configured(settings if plan is None else {"plan": plan, **settings}))

    def __call__(self, input_ids: NDArray[np.intc], /, **others: Any) -> NDArray[np.intc]:
        """(n,) drafted tokens after `input_ids` (T,); `Llama` cuts them to its own room."""
        return np.array(self.proposer.chains(Texts.of_rows([input_ids]), self._room)[0], dtype=np.intc)
