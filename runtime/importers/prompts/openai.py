"""OpenAI's chat and completion requests: bare, in a batch line's ``body``, or in a log's ``request``."""

from __future__ import annotations

import json
from typing import Any

from runtime.importers.prompts.base import PROMPT_FORMATS, ImportedPrompt, LeftOut, Message, PromptFormat, as_text

__all__ = ["OpenAiRequest", "parsed_call", "request_of"]

_KEPT = ("role", "content", "name", "tool_calls", "tool_call_id")


@PROMPT_FORMATS.register
class OpenAiRequest(PromptFormat):
    """``messages`` or ``prompt`` (text, or a list of texts), and ``tools``.

    A last message of the assistant is the reference, not part of the prompt. Of a content in parts, the text parts are
    taken. A message without content, as one that calls tools, has an empty one; a call's arguments, which are JSON in
    a string, become what they say, because chat templates print them themselves.
    """

    name = "openai"
    keys = "`messages`, or `prompt` as text"
    workload = "chat"

    def matches(self, row: Any) -> bool:
        """Whether it is a request of text."""
        request = request_of(row)
        return _is_text(request.get("prompt")) or _is_conversation(request.get("messages"))

    def read(self, row: Any, name: str) -> list[ImportedPrompt]:
        """The prompt before the last answer; several of a completion that has several."""
        request = request_of(row)
        given = next((str(row[key]) for key in ("custom_id", "id", "prompt_id") if row.get(key) is not None), name)
        workload, source = str(row.get("workload") or ""), str(row.get("source") or "")
        if _is_conversation(request.get("messages")):
            return [self._of_messages(request, given, workload, source, row.get("reference"))]
        asked = request["prompt"]
        texts: list[str] = [asked] if isinstance(asked, str) else asked
        if not any(text.strip() for text in texts):
            raise LeftOut("an empty `prompt`")
        names = [given] if len(texts) == 1 else [f"{given}-{number}" for number in range(len(texts))]
        return [
            ImportedPrompt(called, workload, text=text, source=source)
            for called, text in zip(names, texts, strict=True)
            if text.strip()
        ]

    def _of_messages(self, request: dict[str, Any], name: str, workload: str, source: str, told: Any) -> ImportedPrompt:
        messages = [_message(message) for message in request["messages"]]
        reference = told if isinstance(told, str) else None
        if messages[-1]["role"] == "assistant":
            reference = messages.pop()["content"] or None
        if not messages:
            raise LeftOut("nothing before the assistant's message")
        tools = request.get("tools")
        offered = tuple(tool for tool in tools if isinstance(tool, dict)) if isinstance(tools, list) else ()
        return ImportedPrompt(
            name, workload, messages=tuple(messages), tools=offered, reference=reference, source=source
        )


def request_of(row: Any) -> dict[str, Any]:
    """The request in a row: itself, or the one that it wraps; empty where there is none."""
    if not isinstance(row, dict):
        return {}
    inner = next((row[key] for key in ("body", "request") if isinstance(row.get(key), dict)), row)
    return inner


def _is_text(prompt: Any) -> bool:
    texts = prompt if isinstance(prompt, list) else [prompt]
    return bool(texts) and all(isinstance(text, str) for text in texts)


def _is_conversation(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages)
    )


def _message(message: dict[str, Any]) -> Message:
    kept = {key: message[key] for key in _KEPT if message.get(key) is not None}
    kept["role"] = "system" if kept["role"] == "developer" else kept["role"]
    kept["content"] = as_text(message.get("content"))
    if isinstance(kept.get("tool_calls"), list):
        kept["tool_calls"] = [parsed_call(call) for call in kept["tool_calls"]]
    return kept


def parsed_call(call: Any) -> Any:
    """A tool call with its arguments as what their JSON says, where it says an object."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call
