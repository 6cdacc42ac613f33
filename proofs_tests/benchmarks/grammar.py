"""Languages of 8 to 256 texts on a real model: the engine's law, masking's, and both by separate forwards.

``python -m proofs_tests.benchmarks.grammar FOLDER`` takes every language of ``grammar_languages.json`` and writes, into
``results/grammar.json``: total variation between the law that the engine draws from and an independent enumeration
(one plain forward of the transformers model a string, in float64); masking's beside it, by the masks of llguidance; and
seconds and forwards of one text, exact and masked, in turn. ``--only`` takes some of them, ``--skip-times`` no times.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.grammar import Language, prefixes_of
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.grammar.gap import grammar_gap
from runtime.grammar.read import LanguageSpec, language_of
from runtime.grammar.spelling import matcher_tokenizer
from runtime.models.load import load_model, load_tokenizer
from runtime.models.text import encode_chat

LANGUAGES = Path(__file__).with_name("grammar_languages.json")
ROOM = 64
Text = tuple[int, ...]


def strings_of(language: Language, room: int) -> list[Text]:
    """Every string that fits, listed without the model."""
    graph = prefixes_of(language, room)
    return [path for path, done in zip(graph.paths, graph.complete, strict=True) if done]


def in_float64(model: Any) -> Any:
    """The plain model with norms that stay in float64: its own round to float32 on the way, whatever its type is."""
    for module in list(model.modules()):
        for name, norm in list(module.named_children()):
            if type(norm).__name__.endswith("RMSNorm"):
                wide = torch.nn.RMSNorm(norm.weight.shape[0], eps=norm.variance_epsilon, dtype=torch.float64)
                wide.load_state_dict(norm.state_dict())
                setattr(module, name, wide)
    return model.eval()


@torch.inference_mode()
def by_plain_forwards(model: Any, prompt: list[int], strings: list[Text]) -> list[NDArray[Any]]:
    """(T + 1, V) log laws along each string, one forward of the plain model a string, behind one of the prompt."""
    first = model(input_ids=torch.tensor([prompt]), use_cache=True)
    found: list[NDArray[Any]] = []
    for string in strings:
        behind = copy.deepcopy(first.past_key_values)
        logits = model(input_ids=torch.tensor([string]), past_key_values=behind, use_cache=True).logits[0]
        logits = torch.cat((first.logits[0, -1:], logits)).double()
        found.append(torch.log_softmax(logits, dim=-1).numpy())
    return found


def enumerated(strings: list[Text], laws: list[NDArray[Any]], ends: tuple[int, ...]) -> dict[Text, float]:
    """p(y) p(end | y) of each string over the sum."""
    scores = np.array(
        [
            sum(law[place, token] for place, token in enumerate(string)) + np.logaddexp.reduce(law[-1, list(ends)])
            for string, law in zip(strings, laws, strict=True)
        ]
    )
    parts = np.exp(scores - np.logaddexp.reduce(scores))
    return dict(zip(strings, parts.tolist(), strict=True))


def by_library_masks(
    strings: list[Text], laws: list[NDArray[Any]], ends: tuple[int, ...], tokenizer: Any, *, every_spelling: bool
) -> dict[Text, float]:
    """What masking by llguidance gives: allowed tokens by its matcher, renormalised, along each string.

    Where a text has one spelling only, of the tokens that the matcher allows those count that begin one. A spelling of
    text that is forced, of which the matcher keeps one, has probability 0 where it is another.
    """
    from llguidance import LLMatcher

    reader = matcher_tokenizer(tokenizer)
    texts = sorted({tokenizer.decode(list(string)) for string in strings})
    grammar = LLMatcher.grammar_from_regex("|".join(re.escape(text).replace("/", r"\/") for text in texts))
    begun = {string[:size] for string in strings for size in range(len(string) + 1)}
    found: dict[Text, float] = {}
    for string, law in zip(strings, laws, strict=True):
        matcher, score = LLMatcher(reader, grammar, log_level=0), 0.0
        for place in range(len(string) + 1):
            allowed: list[int] = []
            if not matcher.is_stopped():
                bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
                allowed = [t for t in np.flatnonzero(bits).tolist() if not reader.is_special_token(t)]
            if not every_spelling:
                allowed = [token for token in allowed if (*string[:place], token) in begun]
            ended = list(ends) if matcher.is_accepting() else []
            total = np.logaddexp.reduce(law[place, [*allowed, *ended]])
            if place == len(string):
                score += np.logaddexp.reduce(law[place, list(ends)]) - total
                continue
            score += law[place, string[place]] - total if string[place] in allowed else -np.inf
            if score == -np.inf:
                break
            matcher.consume_token(string[place])
        found[string] = float(np.exp(score))
    return found


def distance(one: dict[Text, float], other: dict[Text, float]) -> float:
    return sum(abs(one.get(text, 0.0) - other.get(text, 0.0)) for text in one.keys() | other.keys()) / 2


def seconds(engine: Engine, prompt: list[int], params: SamplingParams, repeats: int) -> float:
    """Median seconds of one text, its prompt left out."""
    took: list[float] = []
    for turn in range(repeats + 1):
        engine.prefill_s = 0.0
        start = perf_counter()
        engine.generate([prompt], params)
        if turn:
            took.append(perf_counter() - start - engine.prefill_s)
    return median(took)


def measure(told: dict[str, Any], model: Any, plain: Any, fast: Any, tokenizer: Any, repeats: int) -> dict[str, Any]:
    """All figures of one language."""
    spec = LanguageSpec.model_validate(told["language"])
    language = language_of(spec, tokenizer)
    prompt = encode_chat(tokenizer, [{"role": "user", "content": told["prompt"]}])
    params = SamplingParams(temperature=1.0, max_new_tokens=ROOM, language=language)
    ends = model.end_tokens
    gap = grammar_gap(model, prompt, params, tokenizer=tokenizer)
    strings = strings_of(language, ROOM - 1)
    laws = by_plain_forwards(plain, prompt.tolist(), strings)
    exact = enumerated(strings, laws, ends)
    masked = by_library_masks(strings, laws, ends, tokenizer, every_spelling=spec.tokenisations == "all")
    row: dict[str, Any] = {
        "language": told["name"],
        "texts": len({tokenizer.decode(list(string)) for string in strings}),
        "strings": len(strings),
        "prefixes": gap.prefixes,
        "forwards": gap.forwards,
        "mass": gap.mass,
        "law_against_enumeration": distance(gap.faithful, exact),
        "mask_against_library_masks": distance(gap.projected, masked),
        "mask_against_law": gap.total_variation,
        "most_changed": [
            {"text": tokenizer.decode(list(each)), "exact": gap.faithful[each], "mask": gap.projected[each]}
            for each in gap.worst(2)
        ],
    }
    if repeats:
        engine = Engine(fast, max_batch=1, max_context=len(prompt) + ROOM + 1, tokenizer=tokenizer)
        asked = {name: replace(params, validity=name) for name in ("exact", "mask")}
        row |= {f"{name}_s": seconds(engine, prompt.tolist(), each, repeats) for name, each in asked.items()}
    return row


def main() -> None:
    """Print the figures, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-times", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(options.folder)
    model = load_model(options.folder, "float64")
    plain = in_float64(AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float64))
    fast = None if options.skip_times else load_model(options.folder, "float32")
    rows, path = [], options.output
    for told in json.loads(LANGUAGES.read_text()):
        if options.only and told["name"] not in options.only:
            continue
        row = measure(told, model, plain, fast, tokenizer, 0 if options.skip_times else options.repeats)
        rows.append(row)
        shown = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in row.items() if name != "most_changed"}
        print("  ".join(f"{name} {value}" for name, value in shown.items()), flush=True)
        path = write_report("grammar", {"folder": Path(options.folder).name, "rows": rows}, options.output)
    assert rows, "no language of that name"
    print(path)


if __name__ == "__main__":
    main()
