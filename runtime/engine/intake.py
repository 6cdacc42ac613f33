"""What comes into an engine and what goes out: prompts as token ids, requests that cannot be served, completions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require
from runtime.engine.request import Completion, Request
from runtime.models.base import LanguageModel
from runtime.models.text import encode_text

__all__ = ["check_vocabularies", "completed", "encode", "refusal"]


def encode(prompt: str | ArrayLike, tokenizer: Any) -> NDArray[np.int64]:
    """(P,) token ids of a prompt."""
    if isinstance(prompt, str):
        require(
            tokenizer is not None,
            "a prompt given as text must come with a tokenizer",
            got="a str, and an engine without one",
            fix="Pass `tokenizer=`, or token ids.",
        )
        prompt = encode_text(tokenizer, prompt)
    return np.asarray(prompt, dtype=np.int64).reshape(-1)


def refusal(request: Request, vocabulary: int, max_context: int) -> str | None:
    """How a request ends that no engine of this vocabulary and context can serve; None when it can."""
    tokens = request.prompt
    if not len(tokens):
        return "error: the prompt must have at least one token"
    bad = np.flatnonzero((tokens < 0) | (tokens >= vocabulary))
    if len(bad):
        return f"error: token ids must be in [0, {vocabulary}). Got {tokens[bad[0]]} at {bad[0]}"
    need = request.most_tokens
    return f"error: prompt and new tokens must stay below {max_context}. Got {need}" if need >= max_context else None


def completed(request: Request, tokenizer: Any) -> Completion:
    """What a request came to, its text with it where there is a tokenizer."""
    done = request.completion()
    return done if tokenizer is None else replace(done, text=tokenizer.decode(done.tokens))


def check_vocabularies(target: LanguageModel, draft: LanguageModel | None) -> None:
    """Refuse a draft of another vocabulary."""
    require(
        draft is None or draft.vocabulary == target.vocabulary,
        "`target` and `draft` must share one vocabulary",
        got=f"{target.vocabulary} and {draft.vocabulary if draft else 0} tokens",
        fix="Choose a draft trained with the target's tokenizer, or plan for retrieval alone.",
    )
