"""`model.generate(..., custom_generate=speculative(...))`: this engine behind transformers' own interface.

transformers hands a callable the prepared inputs and configuration; greedy output is the one of plain `generate`. What
this engine has no equal for (beams, other logits processors, stopping criteria of one's own) is refused, not ignored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from reader_theory.documents import Off, Plan, Policy, Static
from reader_theory.errors import require
from reader_theory.trees import TokenTree
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
_TEXT = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}
"""Arguments of the model that a text in tokens needs."""
_MODES = ("greedy_search", "sample")


def speculative(
    draft: Any = None,
    policy: Policy | Plan | PolicyChoice | None = None,
    *,
    verification: str = "target_only",
    seed: int | None = None,
    max_batch: int = 8,
) -> Callable[..., torch.Tensor]:
    """A decoding method for the `custom_generate` argument of transformers' `generate`.

    Parameters
    ----------
    draft : transformers model, optional
        With the target's vocabulary; needed by policies with a neural tree.
    policy : Policy, Plan or callable
        See `Engine`.
    verification : str
        See `SamplingParams`; read when `do_sample` is set.
    seed : int, optional
        Of the first row, those below count on. Drawn from torch's generator at each call when left out, so that calls
        differ, and follow `torch.manual_seed`.

    A `presence_penalty` and a `frequency_penalty` of the generation configuration are honoured, which plain `generate`
    does not know. A `streamer` of `generate` is fed as tokens come; an `assistant_model` is the draft of that call, in
    chains of its `num_assistant_tokens` unless there is a policy.

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
        target = wrap(model)
        streamer, assistant, other = map(_of_generate, ("streamer", "assistant_model", "assistant_tokenizer"))
        _check(generation_config, logits_processor, stopping_criteria)
        _check_inputs(input_ids, model_kwargs | {"assistant_tokenizer": other})
        stops = _ids(generation_config.eos_token_id)
        pad = _ids(generation_config.pad_token_id) or stops or (0,)
        prompts = _prompts(input_ids, model_kwargs.get("attention_mask"))
        first = seed
        if first is None:
            first = int(torch.randint(2**62, (1,))) if generation_config.do_sample else 0
        params = _params(generation_config, input_ids.shape[1], verification, stops)
        require(
            streamer is None or len(prompts) == 1,
            "`streamer` must be given one prompt",
            got=f"{len(prompts)}",
            fix="Call `generate` for each prompt, or leave the streamer out.",
        )
        chosen = policy
        if assistant is not None and chosen is None:
            chosen = Static.of(TokenTree.chain(int(assistant.generation_config.num_assistant_tokens or 5)))
        longest = max(map(len, prompts)) + params.max_new_tokens
        engine = Engine(
            target,
            small if assistant is None else wrap(assistant),
            policy=chosen or Off(),
            max_batch=min(max_batch, len(prompts)),
            max_context=longest + 1,
        )
        done = [engine.add(prompt, replace(params, seed=first + row)) for row, prompt in enumerate(prompts)]
        sent = 0
        while not all(each.done for each in done):
            engine.step()
            if streamer is not None and len(done[0].output) > sent:
                streamer.put(torch.tensor(done[0].output[sent:]))
                sent = len(done[0].output)
        failed = next((each.finish for each in done if (each.finish or "").startswith("error")), None)
        require(failed is None, "every prompt must be one that the engine can serve", got=failed, fix="Mend it.")
        if streamer is not None:
            streamer.end()
        width = max(len(each.output) for each in done)
        tails = [each.output + [pad[0]] * (width - len(each.output)) for each in done]
        return torch.cat((input_ids, torch.tensor(tails, dtype=input_ids.dtype, device=input_ids.device)), dim=1)

    return decode


def _of_generate(name: str) -> Any:
    """An argument of the `generate` that called: transformers does not hand these on to a callable.

    Those that `generate` takes out of its keywords are still among those of torch's wrapper around it.
    """
    frame: Any = inspect.currentframe()
    while frame is not None:
        held = frame.f_locals
        where = {"generate": held, "decorate_context": held.get("kwargs") or {}}.get(frame.f_code.co_name, {})
        if name in where:
            return where[name]
        frame = frame.f_back
    return None


def _ids(given: Any) -> tuple[int, ...]:
    return () if given is None else tuple(given) if isinstance(given, list | tuple) else (int(given),)


def _prompts(input_ids: torch.Tensor, mask: torch.Tensor | None) -> list[np.ndarray]:
    """Prompts without the padding on their left."""
    seen = torch.ones_like(input_ids) if mask is None else mask
    return [row[keep.bool()].cpu().numpy() for row, keep in zip(input_ids, seen, strict=True)]


def _params(config: Any, prompt_tokens: int, verification: str, stops: tuple[int, ...]) -> SamplingParams:
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
        presence_penalty=float(getattr(config, "presence_penalty", None) or 0.0),
        frequency_penalty=float(getattr(config, "frequency_penalty", None) or 0.0),
        max_new_tokens=int(config.max_length) - prompt_tokens,
        stop_token_ids=stops,
        ignore_eos=True,
        verification=verification,
    )


def _check_inputs(input_ids: torch.Tensor, told: dict[str, Any]) -> None:
    """Refuse by name whatever a model would take beside tokens that are padded on their left."""
    seen_by = told.pop("mm_encoder_outputs", None) or {}  # `generate` encodes pictures before it hands on
    other = [name for name, value in told.items() if value is not None and name not in _TEXT]
    other += [f"pixel_values or the like, as {modality}" for modality in seen_by]
    mask, positions, cache = (told.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
    seen = torch.ones_like(input_ids) if mask is None else mask.ne(0).long()
    if seen.shape != input_ids.shape or bool((seen.diff(dim=1) < 0).any()):
        other.append("attention_mask other than padding on the left")
    elif positions is not None and not other and bool(((positions != seen.cumsum(-1) - 1) & (seen == 1)).any()):
        other.append("position_ids of its own")
    if cache is not None and cache.get_seq_length():
        other.append("past_key_values that hold tokens")
    require(
        not other,
        "`generate` must give the model tokens alone",
        got=", ".join(other),
        fix="Leave these out where they say nothing that tokens do not, or leave `custom_generate` out.",
    )


def _check(config: Any, processors: Any, criteria: Any) -> None:
    other = [type(each).__name__ for each in processors or [] if type(each).__name__ not in _LOGITS]
    other += [type(each).__name__ for each in criteria or [] if type(each).__name__ not in _STOPS]
    mode = config.get_generation_mode()
    other += [mode.replace("_", " ")] if mode not in _MODES else []
    require(
        not other and (config.num_beams or 1) == 1 and (config.num_return_sequences or 1) == 1,
        "`generate` must ask for what the engine has: one sequence, its own filters, drafts, length and stop tokens",
        got=f"{', '.join(other) or 'beams or several sequences'}",
        fix="Leave these options out, or leave `custom_generate` out.",
    )
    require(
        not config.return_dict_in_generate,
        "`return_dict_in_generate` must be off",
        got="on",
        fix="The engine returns token ids; its counters say more than the dictionary.",
    )
