"""`reader judge`: mine, fit and measure a judge of mismatches. LOSSY where it is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import Progress, guarded, output_path, progress_bars, show_document

if TYPE_CHECKING:
    from runtime.cli._models import Models
    from runtime.judge.questions import Asked, FinalAnswer
    from runtime.models.base import LanguageModel

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Judge decoding, LOSSY: drafted tokens that are not the target's are kept where they seem not to matter.\n\n"
    "mine, fit, curve; then `reader plan CURVE COST --quality-budget POINTS`. The house pair adds numbers.",
)
NEW_TOKENS = 128

Questions = Annotated[
    Path | None,
    typer.Option(
        "--questions",
        help="A JSON object a line: text, and answer and id where they are known; the house's additions when left out.",
    ),
]
AnswerPattern = Annotated[
    str | None,
    typer.Option(
        "--answer", help="Regular expression of the final answer: its last match counts. The last number by default."
    ),
]
NewTokens = Annotated[int, typer.Option(min=2, max=10**5, help="Longest answer.")]
Batch = Annotated[int, typer.Option(min=1, max=4096, help="Questions at once.")]
MinedFile = Annotated[Path, typer.Argument(help="Mined mismatches, from `reader judge mine`.")]
JudgeFile = Annotated[Path, typer.Argument(help="Judge, from `reader judge fit`.")]


def mine(
    target: options.Target = None,
    draft: options.Draft = None,
    questions: Questions = None,
    answer: AnswerPattern = None,
    limit: options.Limit = None,
    new_tokens: NewTokens = NEW_TOKENS,
    batch: Batch = 32,
    dtype: options.Dtype = None,
    seed: options.Seed = 0,
    output: options.Output = Path("out/mismatches.json"),
    as_json: options.AsJson = False,
) -> None:
    """Along the target's greedy answers, which of the draft's other tokens change the final answer.

    Example: reader judge mine --target path/to/target --draft path/to/draft --questions sums.jsonl
    """
    output_path(output, ".json")
    with progress_bars() as progress:
        models, small = _pair(target, draft, dtype, progress)
        from runtime.judge.mine import mine as mined

        asked, final = _asked(questions, answer, models, "mine", limit)
        names = models.names[0], next(iter(models.names[1].values()))
        found = mined(
            models.target, small, asked, final, models.tokenizer, path=output, new_tokens=new_tokens, names=names,
            batch=batch, seed=seed, progress=progress,
        )  # fmt: skip
    show_document(found, output, as_json=as_json)


def fit(
    mined: MinedFile = Path("out/mismatches.json"),
    features: Annotated[
        Literal["difference", "drafted"],
        typer.Option(
            help="difference: states at the draft's token less those at the target's; drafted: the former alone, "
            "which saves a forward of the target a step."
        ),
    ] = "drafted",
    held_out: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the questions held out.")] = 0.25,
    seed: options.Seed = 0,
    output: options.Output = Path("out/judge.json"),
    as_json: options.AsJson = False,
) -> None:
    """A classifier of mismatches: standardised states, logistic regression, the best ROC-AUC on held-out questions.

    Example: reader judge fit out/mismatches.json
    """
    output_path(output, ".json")
    from reader_theory.documents.judge import MinedMismatches
    from runtime.judge.fit import fit_judge

    judge = fit_judge(MinedMismatches.read(mined), features=features, held_out=held_out, seed=seed)
    judge.write(output)
    show_document(judge, output, as_json=as_json)


def curve(
    judge: JudgeFile = Path("out/judge.json"),
    target: options.Target = None,
    draft: options.Draft = None,
    questions: Questions = None,
    answer: AnswerPattern = None,
    threshold: Annotated[
        list[float] | None, typer.Option(min=0.0, help="Repeatable; the judge's own 26 quantiles when left out.")
    ] = None,
    drafts: Annotated[list[int] | None, typer.Option(min=1, max=256, help="Tokens of a chain; repeatable.")] = None,
    baselines: Annotated[bool, typer.Option(help="random, confidence and top-K as well.")] = True,
    limit: options.Limit = None,
    new_tokens: NewTokens = NEW_TOKENS,
    batch: Batch = 16,
    dtype: options.Dtype = None,
    seed: options.Seed = 0,
    output: options.Output = Path("out/judge-curve.json"),
    as_json: options.AsJson = False,
) -> None:
    """Tokens a step and task score by threshold, on questions that neither miner nor fit saw; baselines beside it.

    Example: reader judge curve out/judge.json --questions others.jsonl --drafts 8
    """
    output_path(output, ".json")
    from reader_theory.documents.base import Stamp
    from reader_theory.documents.judge import Judge, JudgeCurve

    told = Judge.read(judge)
    with progress_bars() as progress:
        models, small = _pair(target or told.target, draft or [told.draft], dtype, progress)
        from runtime.judge.curve import BASELINE_POINTS, Trial, points_of
        from runtime.models.states import check_probe

        check_probe(models.target, told.target_probe, "target")
        check_probe(small, told.draft_probe, "draft")

        asked, final = _asked(questions, answer, models, "curve", limit)
        _unseen(asked, told.fitted_on + told.held_out)
        trial = Trial(
            models.target, small, asked, final, models.tokenizer, new_tokens=new_tokens, batch=batch, seed=seed
        )
        points = points_of(
            trial,
            str(judge),
            threshold or told.thresholds,
            drafts or [8],
            BASELINE_POINTS if baselines else (),
            progress,
        )
    context = sum(len(each.tokens) for each in asked) / len(asked) + float(trial.own.tokens.mean()) / 2
    found = JudgeCurve(
        stamp=Stamp.now(seed=seed), target=models.names[0], draft=next(iter(models.names[1].values())),
        judge=str(judge), fingerprint_of_judge=told.fingerprint(), reads_alternatives=told.features == "difference",
        questions=len(asked), new_tokens=new_tokens, context_tokens=context, points=tuple(points),
    )  # fmt: skip
    found.write(output)
    show_document(found, output, as_json=as_json)


def questions(
    part: Annotated[str, typer.Argument(help="mine, curve or test: no part shares a question with another.")] = "test",
    limit: options.Limit = None,
    output: options.Output = Path("out/questions.jsonl"),
    as_json: options.AsJson = False,
) -> None:
    """Write the house's additions of a part, as `--questions` and as `reader run --prompts` take them.

    Example: reader judge questions test --limit 100
    """
    path = output_path(output, ".jsonl")
    from reader_theory.documents.base import write_atomically
    from reader_theory.documents.judge import QUESTIONS
    from runtime.cli._shared import show_rows
    from runtime.judge.questions import house_part

    found = house_part(part, limit)
    rows = [
        {"id": f"{each.first}+{each.second}", "text": each.prompt, "answer": str(each.answer), "workload": QUESTIONS}
        for each in found
    ]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    show_rows([{"part": part, "questions": len(rows), "path": str(path)}], as_json=as_json, facts={"kind": "questions"})


_COMMANDS: dict[str, Callable[..., None]] = {"mine": mine, "fit": fit, "curve": curve, "questions": questions}
for _name, _command in _COMMANDS.items():
    app.command(_name)(guarded(_command))


def _pair(
    target: str | None, draft: Sequence[str] | None, dtype: str | None, progress: Progress
) -> tuple[Models, LanguageModel]:
    """Target and its one draft model: the house's adders when left out."""
    from runtime.cli._models import load_models
    from runtime.models.base import LanguageModel

    names = target or options.ADDITION_TARGET, draft or ([options.ADDITION_DRAFT] if target is None else [])
    require(
        len(names[1]) == 1,
        "a judge must be given one draft beside its target",
        got=", ".join(names[1]) or f"none for {names[0]}",
        fix="Pass one --draft FOLDER.",
    )
    models = load_models(*names, dtype or "float32", progress)
    small = next(iter(models.drafts.values()), None)
    require(
        isinstance(small, LanguageModel),
        "the draft of a judge must be a model",
        got=names[1][0],
        fix="Pass a folder or hub name: a judge reads the draft's own states.",
    )
    assert isinstance(small, LanguageModel)
    return models, small


def _asked(
    questions: Path | None, answer: str | None, models: Models, part: str, limit: int | None
) -> tuple[list[Asked], FinalAnswer]:
    """Questions of a file, or the house's for the pair that was trained on them, and how answers are read."""
    from runtime.judge.questions import NUMBER, FinalAnswer, house_questions, read_questions
    from runtime.training.addition.wording import ANSWER

    if questions is not None:
        return read_questions(questions, models.tokenizer, limit), FinalAnswer(answer or NUMBER)
    require(
        models.names[0] == options.ADDITION_TARGET,
        "`--questions` must be given for a target that is not the house's adder",
        got=models.names[0],
        fix='Pass a file of questions with answers, a JSON object a line: {"text": ..., "answer": ...}.',
    )
    return house_questions(part, models.tokenizer, limit), FinalAnswer(answer or ANSWER)


def _unseen(asked: Sequence[Asked], seen: Sequence[str]) -> None:
    """Refuse questions that the judge was made with: a threshold chosen on them would flatter it."""
    shared = sorted({each.id for each in asked} & set(seen))
    require(
        not shared,
        "a curve must be of questions that the judge was not made with",
        got=f"{len(shared)} that it was, {shared[0]} among them" if shared else "",
        fix="Pass other questions, or give them ids of their own.",
    )
