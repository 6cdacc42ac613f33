"""Engines as an audit sees them: prompts in, sampled tokens out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.client import HTTPException
from typing import Any, Protocol
from urllib.request import OpenerDirector, Request

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, require
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.loopback import loopback_opener

__all__ = ["Sampler", "assisted", "engine_sampler", "server"]

Ints = NDArray[np.int64]
PATIENCE_S = 120.0
LARGEST_BYTES = 64 * 2**20
"""Most of an answer that is read."""


class Sampler(Protocol):
    """An engine under audit."""

    def __call__(self, prompts: Sequence[Ints], seed: int) -> list[list[int]]:
        """The tokens that it samples after each prompt, the end token included where it ends by one."""
        ...


def engine_sampler(engine: Engine, params: SamplingParams) -> Sampler:
    """This package's own engine."""

    def sample(prompts: Sequence[Ints], seed: int) -> list[list[int]]:
        each = [replace(params, seed=seed + i) for i in range(len(prompts))]
        return [list(done.tokens) for done in engine.generate(list(prompts), each)]

    return sample


def assisted(model: Any, params: SamplingParams, **options: Any) -> Sampler:
    """transformers' own `generate`, with `assistant_model`, `prompt_lookup_num_tokens` or whatever `options` ask.

    The generation configuration that comes with the model stays in force, as it does for whoever calls `generate`:
    what it adds to `params` is what an audit is to find.
    """
    asked: dict[str, Any] = {
        "do_sample": True,
        "temperature": params.temperature,
        "max_new_tokens": params.max_new_tokens,
    }
    asked |= {"top_k": params.top_k} if params.top_k else {}
    asked |= {"top_p": params.top_p} if params.top_p < 1 else {}

    def sample(prompts: Sequence[Ints], seed: int) -> list[list[int]]:
        outputs: list[list[int]] = []
        for i, prompt in enumerate(prompts):
            torch.manual_seed(seed + i)
            ids = torch.from_numpy(prompt)[None].to(model.device)
            out = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **{**asked, **options})
            outputs.append(out[0, len(prompt) :].tolist())
        return outputs

    return sample


def server(url: str, model: str, params: SamplingParams, end_tokens: Sequence[int] = ()) -> Sampler:
    """A server of OpenAI's completions on this machine (vLLM, SGLang, llama.cpp).

    Parameters
    ----------
    url : str
        For example ``http://127.0.0.1:8000/v1``; only loopback is asked.
    model : str
        As the server calls it.
    end_tokens : ints
        The target's; a text that ended by one which the server keeps to itself is completed with it.

    Raises
    ------
    InvalidInputError
        If the address is not on loopback; later, if the server does not answer, or does not tell token ids.
    """
    opener = loopback_opener(url, "http://127.0.0.1:8000/v1")
    ask = _asking(opener, f"{url.rstrip('/')}/completions")
    body: dict[str, Any] = {
        "model": model, "max_tokens": params.max_new_tokens, "temperature": params.temperature, "top_p": params.top_p,
        "top_k": params.top_k or -1, "return_token_ids": True, "return_tokens": True, "logprobs": 0,
        "return_tokens_as_token_ids": True,
    }  # fmt: skip

    def sample(prompts: Sequence[Ints], seed: int) -> list[list[int]]:
        told = (ask({**body, "prompt": prompt.tolist(), "seed": seed + i}) for i, prompt in enumerate(prompts))
        return [_tokens(each, params.max_new_tokens, end_tokens) for each in told]

    return sample


def _asking(opener: OpenerDirector, url: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def ask(body: dict[str, Any]) -> dict[str, Any]:
        request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with opener.open(request, timeout=PATIENCE_S) as answer:
                told = json.loads(answer.read(LARGEST_BYTES))
            if not isinstance(told, dict):
                raise ValueError(f"JSON that is no object: {str(told)[:200]}")
            return told
        except (OSError, HTTPException, ValueError) as error:
            told = getattr(error, "read", lambda: b"")()[:200].decode(errors="replace")
            raise InvalidInputError(
                "the server must answer OpenAI's completions with JSON",
                got=f"{url}: {error} {told}".strip(),
                fix="Check that it runs, its port, and the model's name.",
            ) from error

    return ask


def _tokens(answer: dict[str, Any], most: int, end_tokens: Sequence[int]) -> list[int]:
    """Token ids of a completion, in any of the ways in which servers tell them."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    told = choice.get("token_ids") or choice.get("tokens") or answer.get("tokens")
    if told is None:
        logprobs = choice.get("logprobs")
        names = logprobs.get("tokens") if isinstance(logprobs, dict) else None
        ids = [str(name).removeprefix("token_id:") for name in names] if isinstance(names, list) else []
        told = [int(each) for each in ids] if ids and all(each.isdecimal() for each in ids) else None
    require(
        isinstance(told, list) and all(type(each) is int for each in told),
        "the server must tell the ids of the tokens that it sampled",
        got=f"a choice with {', '.join(sorted(choice)) or 'nothing'}",
        fix="vLLM tells them with `return_token_ids`; llama.cpp's server with `return_tokens`. Text alone does not say "
        "which tokens were drawn.",
    )
    assert told is not None
    ended = choice.get("finish_reason") == "stop" and len(told) < most
    if ended and len(end_tokens) == 1 and (not told or told[-1] != end_tokens[0]):
        told = [*told, end_tokens[0]]
    return told
