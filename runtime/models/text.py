"""From text to tokens, one way for engine, record, run, imports and datastore: special tokens once, templates once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError

__all__ = ["Message", "encode_chat", "encode_text", "join_messages"]

Message = Mapping[str, Any]
"""``role`` and ``content``, and what a chat template knows besides, such as ``tool_calls``."""


def encode_text(tokenizer: Any, text: str) -> NDArray[np.int64]:
    """Token ids of a text with the tokenizer's own special tokens, once.

    A text that begins with the tokenizer's first token spelled out, as one that a chat template made does, gets no
    second one.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    text : str

    Returns
    -------
    (P,) int64
    """
    first = getattr(tokenizer, "bos_token", None)
    spelled_out = bool(first) and text.startswith(first)
    return np.asarray(tokenizer(text, add_special_tokens=not spelled_out)["input_ids"], dtype=np.int64).reshape(-1)


def encode_chat(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
) -> NDArray[np.int64]:
    """Token ids of a conversation up to where the model answers, by the tokenizer's own chat template.

    The template holds the special tokens itself, so that none is added. A tokenizer without a template is one of a
    base model, which knows no roles: the messages are then joined as `join_messages` does it.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    messages : sequence of mappings
        ``role``, ``content`` and what the template reads besides.
    tools : sequence of mappings, optional
        The tools' JSON schemas, for templates that list them.

    Returns
    -------
    (P,) int64

    Raises
    ------
    InvalidInputError
        If the template refuses the messages, as some do of a system message or of two turns of one role.
    """
    if not getattr(tokenizer, "chat_template", None):
        return encode_text(tokenizer, join_messages(messages))
    from jinja2.exceptions import TemplateError

    turns = [dict(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            turns, tools=list(tools) if tools else None, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidInputError(
            "`messages` must be a conversation that the tokenizer's chat template takes",
            got=f"{error} for roles {[turn.get('role') for turn in turns][:8]}",
            fix="Leave this conversation out, or import with --plain, which joins the messages as text.",
        ) from None
    return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64).reshape(-1)


def join_messages(messages: Sequence[Message]) -> str:
    r"""The messages' contents alone, a blank line between them.

    Examples
    --------
    >>> join_messages([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}])
    'Be brief.\n\nOne?'
    """
    return "\n\n".join(str(message["content"]) for message in messages if message.get("content"))
