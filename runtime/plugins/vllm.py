"""vLLM: drafts by our plan, as a proposer of vLLM's method ``custom_class``. Chains.

    READER_PLAN=plan.json vllm serve MODEL --speculative-config \\
      '{"method": "custom_class", "model": "runtime.plugins.vllm.VllmProposer", "num_speculative_tokens": 8}'

The plan may stand in vLLM's own settings instead: ``--additional-config '{"reader": {"plan": "plan.json"}}'``.
Nothing of vLLM is imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.plugins.proposer import Proposer
from runtime.retrieval.followed import Texts

__all__ = ["VllmProposer"]


class VllmProposer:
    """What vLLM's model runner asks for drafts after each step.

    Parameters
    ----------
    vllm_config : vllm.config.VllmConfig
        Read: tokens of a draft, longest text, vocabulary, and ``additional_config["reader"]``.
    """

    def __init__(self, vllm_config: Any) -> None:
        settings = vllm_config.additional_config
        model = vllm_config.model_config
        self.proposer = Proposer.configured(
            settings.get("reader", {}) if isinstance(settings, dict) else {},
            most_tokens=vllm_config.speculative_config.num_speculative_tokens,
            vocabulary=model.get_vocab_size(),
        )
        self._longest = model.max_model_len

    def load_model(self, *given: Any, **named: Any) -> None:
        """Nothing to load: look-ups need no weights."""

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Drafts of each row.

        Parameters
        ----------
        sampled_token_ids : list of B lists of int
            Tokens that each row has just emitted; none where its prompt is still being read: nothing is drafted there.
        num_tokens_no_spec : (R,) int, R >= B
            Tokens of prompt and output of each row.
        token_ids_cpu : (R, L) int32
            These tokens.
        slot_mappings : object
            Not read.
        """
        rows = len(sampled_token_ids)
        lengths = np.asarray(num_tokens_no_spec[:rows], np.int64)
        room = self._longest - 1 - lengths  # a step emits one more than was drafted
        drafting = np.fromiter(map(bool, sampled_token_ids), np.bool_, rows) & (room >= 0)
        return self.proposer.chains(Texts.of_matrix(token_ids_cpu, np.where(drafting, lengths, 0)), room)
