"""Options that several commands take, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.models.house.prompt import HouseModel

__all__ = [
    "ADDITION_DRAFT", "ADDITION_TARGET", "HOUSE", "HOUSE_DIFFUSION", "HOUSE_DRAFT", "HOUSE_TARGET", "NO_DRAFT",
    "AsJson",
    "Batches", "BenchFiles", "Config", "CostFile", "DatastoreFile", "DeviceFile", "DeviceName", "Draft",
    "DraftConfig", "Dtype", "FitFile", "Kv", "KvDtype", "KvTokens", "LanguageFile", "Limit", "MeasuredFile",
    "MemoryShare", "Output", "PlanFile", "Processors", "Prompts", "Quantization", "Seed",
    "ServedDtype", "Split", "Target", "Temperature", "TensorParallel", "TraceFile", "ValidationFile",
    "Validities", "Verification", "Workloads",
]  # fmt: skip

HOUSE_TARGET, HOUSE_DRAFT, NO_DRAFT = "house-target", "house-draft", "none"
SMOLLM2_HEAD = "smollm2-head"
HOUSE_DIFFUSION = "house-diffusion"
ADDITION_TARGET, ADDITION_DRAFT = "addition-target", "addition-draft"
HOUSE: dict[str, HouseModel] = {
    HOUSE_TARGET: "target",
    HOUSE_DRAFT: "draft",
    SMOLLM2_HEAD: "smollm2_head",
    ADDITION_TARGET: "addition/target",
    ADDITION_DRAFT: "addition/draft",
    HOUSE_DIFFUSION: "diffusion",
}
"""Models that ship, and their folders."""

Target = Annotated[
    str | None, typer.Option(help=f"Folder or hub name that from_pretrained takes; {HOUSE_TARGET} when left out.")
]
Draft = Annotated[
    list[str] | None,
    typer.Option(
        "--draft",
        help="The same for a draft, NAME=FOLDER, or NAME=CLASS:SOURCE of a class that a plugin adds; repeatable. "
        f'"{NO_DRAFT}" for retrieval only; {SMOLLM2_HEAD} is the head for SmolLM2. {HOUSE_DRAFT} for the house target, '
        f"{NO_DRAFT} for any other when left out.",
    ),
]
DatastoreFile = Annotated[
    Path | None, typer.Option("--datastore", help="Past outputs to look up as well, from `reader datastore build`.")
]
Dtype = Annotated[
    str | None, typer.Option(help="Of the target's weights: float32, bfloat16, float16, float64, int8, int4.")
]
Kv = Annotated[
    str | None,
    typer.Option(
        "--kv",
        help="Cache of the target's keys and values: plain, int8, int4, or NAME=FILE of one from `reader kv fit`, such "
        "as aqua:2.15=out/kv.json.",
    ),
]
Processors = Annotated[
    list[str] | None,
    typer.Option(
        "--processor", help="NAME:SOURCE of a law processor that a plugin adds, for all requests; repeatable."
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="File or folder of prompts, in any format of `reader import prompts`; the house prompts when left out."
    ),
]
Workloads = Annotated[list[str] | None, typer.Option("--workload", help="Only this one; repeatable.")]
Split = Annotated[str, typer.Option(help="Which house prompts: fit, test, or all.")]
LanguageFile = Annotated[
    Path | None,
    typer.Option(
        "--language",
        help="What an output may be: lines of choices (.txt), or JSON with a list of texts, a JSON schema, or one of "
        "strings, regex, schema, tokens, automaton, dyck.",
    ),
]
Validities = Annotated[
    str,
    typer.Option(
        "--validity",
        help="exact: the target's law given the language; mask: allowed tokens one by one, another law; lookahead:k: "
        "between them.",
    ),
]


def complete_rule(incomplete: str) -> list[tuple[str, str]]:
    """Rules that begin so, for the shell: a lossy one says so."""
    from reader_theory.rules import RULES

    told = {rule.name: "lossless" if rule.lossless else "LOSSY: changes the text" for rule in RULES}
    return [(name, help) for name, help in told.items() if name.startswith(incomplete)]


Verification = Annotated[
    str | None,
    typer.Option(
        help="Rule of sampled requests, such as target_only, traversal or typical_lossy; target_only when left out. A "
        "plan with a judge brings its own.",
        autocompletion=complete_rule,
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many prompts a workload.")]
Batches = Annotated[list[int] | None, typer.Option("--batch", min=1, max=65536, help="Rows at once; repeatable.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result for machines.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
TraceFile = Annotated[Path, typer.Argument(help="Trace, from `reader record`.")]
FitFile = Annotated[
    Path,
    typer.Argument(
        help="AcceptanceFit, from `reader fit`; acceptance from `reader import`; a curve from `reader judge curve`."
    ),
]
CostFile = Annotated[Path, typer.Argument(help="Cost, from `reader calibrate` or `reader cost`.")]
PlanFile = Annotated[Path, typer.Argument(help="Plan, from `reader plan`.")]
ValidationFile = Annotated[Path, typer.Argument(help="Validation, from `reader validate`.")]
Config = Annotated[
    str, typer.Option("--model", help="The target: config.json, its folder, or a known name such as Qwen3-32B.")
]
DraftConfig = Annotated[
    str, typer.Option("--draft", help='The drafter: the same, "ngram" or "suffix" for look-ups, or "none".')
]
DeviceName = Annotated[str, typer.Option("--device", help='A card, such as h100 or l40s, or "this machine".')]
DeviceFile = Annotated[Path | None, typer.Option("--device-file", help="TOML of other cards, a table each.")]
MeasuredFile = Annotated[
    Path | None, typer.Option("--measured", help="CSV of timed steps: batch, context, seconds or ms, drafts.")
]
BenchFiles = Annotated[
    list[Path] | None, typer.Option("--bench", help="JSON of vllm bench serve --save-result; repeatable.")
]
ServedDtype = Annotated[str, typer.Option("--dtype", help="Of what is computed: bfloat16, float16, float32.")]
Quantization = Annotated[
    str | None, typer.Option("--quantization", help="Of the weights: fp8, int8, int4, awq, gptq, mxfp4.")
]
KvDtype = Annotated[str, typer.Option("--kv-dtype", help="Of keys and values: auto or fp8.")]
TensorParallel = Annotated[int, typer.Option("--tensor-parallel", min=1, max=64, help="Cards that share the target.")]
MemoryShare = Annotated[
    float, typer.Option("--memory-share", min=0.1, max=1.0, help="Of a card's memory that the engine may use.")
]
KvTokens = Annotated[
    int | None,
    typer.Option(
        "--kv-tokens", min=1, max=10**12, help="Capacity of the cache as the engine logs it, the drafter loaded."
    ),
]
