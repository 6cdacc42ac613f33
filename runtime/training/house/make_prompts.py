"""Make prompts: three workloads of held-out text, in two halves that share no file.

``code`` continues held-out source. ``copy`` shows a passage, asks for it again, and gives its first line, so that the
answer repeats it. ``prose`` continues documentation. Prompts whose greedy continuation of 128 tokens falls into a loop,
or ends the text, are left out: a loop flatters retrieval. The share that does is reported.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from runtime.models.house.prompt import WORKLOADS, Prompt
from runtime.training.house.continuation import greedy_continuations, holds_loop
from runtime.training.house.heldout import heldout_texts
from runtime.training.house.windows import HEADERS

HALF = 256  # prompts of a workload in each split
NEW_TOKENS = 128
MARGIN, DEFINITION = r"\S", r"\S|\s*(def|class|async|@)\b"
# Fewest and most tokens of a passage (of a copy prompt: of what is to be repeated), and how its first line begins.
PASSAGES = {"code": (128, 256, DEFINITION), "copy": (140, 200, DEFINITION), "prose": (64, 128, MARGIN)}
MOST_OF_A_FILE = 80
FIRST_LINE_TOKENS = 6  # tokens of the passage that a copy prompt repeats, at least
LEAST_PROSE_LINE, LEAST_PROSE_LETTERS = 30, 0.8


def make_prompts(work: Path, target_folder: Path, destination: Path, seed: int = 0) -> dict[str, Any]:
    """Write ``{code,copy,prose}.jsonl`` into ``destination`` and return what was offered and left out."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(target_folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(target_folder)
    destination.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {}
    for number, workload in enumerate(WORKLOADS):
        rng = np.random.default_rng([seed, number])
        texts = heldout_texts(work, "prose" if workload == "prose" else "source")
        prompts: list[Prompt] = []
        seen: set[str] = set()
        counts = {"offered": 0, "looped": 0, "ended": 0, "kept": 0}
        for split in ("fit", "test"):
            chosen = {name: text for name, text in sorted(texts.items()) if split_of(name, seed) == split}
            prompts += _half(rng, model, tokenizer, workload, split, chosen, seen, counts)
        rows = [json.dumps(asdict(prompt), ensure_ascii=False) for prompt in prompts]
        (destination / f"{workload}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        report[workload] = counts | {"loop_share": counts["looped"] / max(1, counts["offered"])}
        print(workload, report[workload], flush=True)
    return report


def split_of(name: str, seed: int) -> str:
    """Half that a file falls in, the same for every workload: a coin that its name and the seed toss."""
    return ("fit", "test")[hashlib.sha256(f"{seed}:{name}".encode()).digest()[0] % 2]


def _half(
    rng: np.random.Generator,
    model: Any,
    tokenizer: Any,
    workload: str,
    split: str,
    texts: dict[str, str],
    seen: set[str],
    counts: dict[str, int],
) -> list[Prompt]:
    candidates = _in_turn([_candidates(rng, tokenizer, workload, name, text) for name, text in texts.items()])
    fresh = (pair for pair in candidates if pair[1] not in seen and not seen.add(pair[1]))
    kept: list[Prompt] = []
    while len(kept) < HALF and (block := list(islice(fresh, 64))):
        written = greedy_continuations(model, tokenizer, [text for _, text in block], NEW_TOKENS)
        for (name, text), tokens in zip(block, written, strict=True):
            ended, looped = tokenizer.eos_token_id in tokens, holds_loop(tokens)
            counts["offered"] += 1
            counts["ended"] += ended
            counts["looped"] += looped
            if len(kept) < HALF and not (ended or looped):
                sha = hashlib.sha256(text.encode()).hexdigest()[:16]
                kept.append(Prompt("", workload, split, text, name, sha))
    counts["kept"] += len(kept)
    return numbered(kept)


def numbered(prompts: list[Prompt]) -> list[Prompt]:
    """In the order of their hashes: the first few are then like all of them, not one of each file."""
    ordered = sorted(prompts, key=lambda prompt: prompt.sha)
    return [replace(p, id=f"{p.workload}-{p.split}-{i:03d}") for i, p in enumerate(ordered)]


def _in_turn(sources: list[Iterator[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    """One candidate of each file, then the next of each, until all are spent."""
    for turn in zip_longest(*sources):
        yield from (candidate for candidate in turn if candidate is not None)


def _candidates(
    rng: np.random.Generator, tokenizer: Any, workload: str, name: str, text: str
) -> Iterator[tuple[str, str]]:
    """Prompts from one file, from passages that do not overlap, at most ``MOST_OF_A_FILE``, in random order."""
    passages = list(_passages(rng, tokenizer, text, *PASSAGES[workload]))
    for i in rng.permutation(len(passages))[:MOST_OF_A_FILE]:
        prompt = passages[i]
        if workload == "copy":
            header = HEADERS[int(rng.integers(5))]
            prompt += header + _beginning(tokenizer, prompt)
        if _round_trips(tokenizer, prompt) and (workload != "prose" or reads_as_prose(prompt)):
            yield name, prompt


def _passages(rng: np.random.Generator, tokenizer: Any, text: str, least: int, most: int, begins: str) -> Iterator[str]:
    """Runs of whole lines, without the last line's end, of ``least`` to ``most`` tokens."""
    lines = text.splitlines(keepends=True)
    sizes = [len(ids) for ids in tokenizer(lines, add_special_tokens=False)["input_ids"]] if lines else []
    at = 0
    while at < len(lines):
        if not re.match(begins, lines[at]):
            at += 1
            continue
        end, total, wanted = at, 0, int(rng.integers(least, most + 1))
        while end < len(lines) and total < wanted:
            total, end = total + sizes[end], end + 1
        passage = "".join(lines[at:end]).rstrip()
        if least <= len(tokenizer.encode(passage)) <= most:
            yield passage
        at = end


def _beginning(tokenizer: Any, passage: str) -> str:
    """First lines of the passage: as few as hold ``FIRST_LINE_TOKENS`` tokens."""
    lines = passage.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        start = "".join(lines[:count]).rstrip()
        if len(tokenizer.encode(start)) >= FIRST_LINE_TOKENS:
            return start
    return passage


def reads_as_prose(text: str) -> bool:
    """Whether the lines are long and nearly all of it is letters and blanks: no tables, lists of names or examples."""
    lines = [line for line in text.splitlines() if line.strip()]
    plain = sum(c.isalpha() or c.isspace() for c in text)
    return len(text) >= LEAST_PROSE_LINE * len(lines) and plain >= LEAST_PROSE_LETTERS * len(text) and ">>>" not in text


def _round_trips(tokenizer: Any, text: str) -> bool:
    """Whether the prompt is whole tokens: decoding gives it back, and a new line after it changes none of them."""
    ids = tokenizer.encode(text)
    return tokenizer.decode(ids) == text and tokenizer.encode(text + "\n    x")[: len(ids)] == ids
