"""OpenAI's Responses API: ``input`` as text or as items, and ``instructions``."""

from __future__ import annotations

from typing import Any

from runtime.importers.prompts.base import PROMPT_FORMATS, ImportedPrompt, LeftOut, Message, PromptFormat, as_text
from runtime.importers.prompts.openai import parsed_call, request_of

__all__ = ["OpenAiResponse"]

_ITEMS = ("message", "function_call", "function_call_output", "reasoning")


@PROMPT_FORMATS.register
class OpenAiResponse(PromptFormat):
    """Messages, calls of functions and their outputs; what a model thought is left out, as a template does."""

    name = "responses"
    keys = "`input`: text, or items with `role` or `type`"
    workload = "chat"

    def matches(self, row: Any) -> bool:
        """Whether it is a request with an input of text or items."""
        given = request_of(row).get("input")
        items = isinstance(given, list) and bool(given) and all(_is_item(item) for item in given)
        return isinstance(given, str) or items

    def read(self, row: Any, name: str) -> list[ImportedPrompt]:
        """The one prompt of the request."""
        request = request_of(row)
        if request.get("previous_response_id"):
            raise LeftOut("`previous_response_id`: what went before is not in the file")
        given = request["input"]
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else _messages(given)
        if request.get("instructions"):
            messages = [{"role": "system", "content": as_text(request["instructions"])}, *messages]
        reference = messages.pop()["content"] or None if messages and messages[-1]["role"] == "assistant" else None
        if not any(message["content"].strip() for message in messages):
            raise LeftOut("an empty `input`")
        called = next((str(row[key]) for key in ("custom_id", "id") if row.get(key) is not None), name)
        offered = request.get("tools")
        tools = tuple(tool for tool in offered if isinstance(tool, dict)) if isinstance(offered, list) else ()
        return [ImportedPrompt(called, "", messages=tuple(messages), tools=tools, reference=reference)]


def _is_item(item: Any) -> bool:
    return isinstance(item, dict) and (isinstance(item.get("role"), str) or item.get("type") in _ITEMS)


def _messages(items: list[dict[str, Any]]) -> list[Message]:
    messages: list[Message] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments", "{}")}
            call = parsed_call({"id": item.get("call_id"), "type": "function", "function": function})
            if not (messages and messages[-1]["role"] == "assistant"):
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            told = {"role": "tool", "content": as_text(item.get("output"))}
            messages.append(told | ({"tool_call_id": item["call_id"]} if item.get("call_id") else {}))
        elif "role" in item:
            role = "system" if item["role"] == "developer" else item["role"]
            messages.append({"role": role, "content": as_text(item.get("content"))})
    return messages
