"""`model.generate(..., custom_generate=speculative(...))`: this engine behind transformers' own interface.

transformers hands a callable the prepared inputs and configuration; greedy output is the one of plain `generate`. What
this engine has no equal for (beams, other logits processors, stopping criteria of one's own) is refused, not ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from reader_theory.documents import Off, Plan, Policy
from reader_theory.errors import require
from runtime.engine.engine import Engine, PolicyChoice
from runtime.engine.sampling import SamplingParams
from runtime.models.load import wrap

__all__ = ["speculative"]

_STOPS = {"MaxLengthCriteria", "EosTokenCriteria"}
_LOGITS = {
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "MinPLogitsWarper",
    "RepetitionPenaltyLogitsProcessor",
}


def speculative(
    draft: Any = None,
    policy: Policy | Plan | PolicyChoice | None = None,
    *,
    verification: str = "target_only",
    seed: int = 0,
    max_batch: int = 8,
) -> Callable[..., torch.Tensor]:
    """A decoding method for the `custom_generate` argument of transformers' `generate`.

    Parameters
    ----------
    draft : transformers model, optional
        With the target's vocabulary; needed by policies with a neural tree.
    policy : Policy, Plan or callable
        See `Engine`.
    verification, seed
        See `SamplingParams`; read when `do_sample` is set.

    Returns
    -------
    callable
        Holds no model: each call follows the weights that the model has then.

    Examples
    --------
    >>> method = speculative(policy=Chain(min_match=2, factor=1.0, max_tokens=16))  # doctest: +SKIP
    >>> model.generate(ids, max_new_tokens=32, do_sample=False, custom_generate=method)  # doctest: +SKIP
    """
    small = None if draft is None else wrap(draft)

    def decode(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        _check(generation_config, logits_processor, stopping_criteria)
        pad = generation_config.pad_token_id
        prompts = _prompts(input_ids, model_kwargs.get("attention_mask"))
        params = _params(generation_config, input_ids.shape[1], verification, seed)
        longest = max(map(len, prompts)) + params.max_new_tokens
        engine = Engine(
            wrap(model),
            small,
            policy=policy or Off(),
            max_batch=min(max_batch, len(prompts)),
            max_context=longest + 1,
        )
        done = engine.generate(prompts, params)
        failed = next((each.finish for each in done if each.finish.startswith("error")), None)
        require(failed is None, "every prompt must be one that the engine can serve", got=failed, fix="Shorten it.")
        width = max(len(each.tokens) for each in done)
        fill = pad if pad is not None else 0
        tails = [each.tokens + [fill] * (width - len(each.tokens)) for each in done]
        return torch.cat((input_ids, torch.tensor(tails, dtype=input_ids.dtype, device=input_ids.device)), dim=1)

    return decode


def _prompts(input_ids: torch.Tensor, mask: torch.Tensor | None) -> list[np.ndarray]:
    """Prompts without the padding on their left."""
    seen = torch.ones_like(input_ids) if mask is None else mask
    return [row[keep.bool()].cpu().numpy() for row, keep in zip(input_ids, seen, strict=True)]


def _params(config: Any, prompt_tokens: int, verification: str, seed: int) -> SamplingParams:
    stops = config.eos_token_id
    ids = () if stops is None else tuple(stops) if isinstance(stops, list | tuple) else (int(stops),)
    sampling = (
        dict(
            temperature=float(config.temperature if config.temperature is not None else 1.0),
            top_k=int(config.top_k or 0),
            top_p=float(config.top_p if config.top_p is not None else 1.0),
            min_p=float(config.min_p or 0.0),
        )
        if config.do_sample
        else {}
    )
    return SamplingParams(
        **sampling,  # pyright: ignore[reportArgumentType]
        repetition_penalty=float(config.repetition_penalty or 1.0),
        max_new_tokens=int(config.max_length) - prompt_tokens,
        stop_token_ids=ids,
        seed=seed,
        verification=verification,
    )


def _check(config: Any, processors: Any, criteria: Any) -> None:
    other = [type(each).__name__ for each in processors or [] if type(each).__name__ not in _LOGITS]
    other += [type(each).__name__ for each in criteria or [] if type(each).__name__ not in _STOPS]
    require(
        not other and (config.num_beams or 1) == 1 and (config.num_return_sequences or 1) == 1,
        "`generate` must ask for what the engine has: one sequence, its own filters, length and stop tokens",
        got=f"{', '.join(other) or 'beams or several sequences'}",
        fix="Leave these options out, or leave `custom_generate` out.",
    )
    require(
        not config.return_dict_in_generate,
        "`return_dict_in_generate` must be off",
        got="on",
        fix="The engine returns token ids; its counters say more than the dictionary.",
    )
