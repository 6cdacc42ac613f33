"""Scripts of the house models: ``python -m runtime.models.house STAGE``, one of `STAGES`."""

import argparse
import json
from pathlib import Path
from typing import Any

from runtime.models.house.prompt import house_folder

STAGES = ("prepare", "train", "distil", "diffusion", "draft_head", "evaluate", "prompts")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime.models.house", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, default=Path("out/house"), help="folder of the prepared corpus")
    parser.add_argument(
        "--tokenizer", type=Path, help="folder of a tokenizer that `prepare` takes instead of a new one"
    )
    parser.add_argument("--diffusion", type=Path, default=house_folder("diffusion"), help="folder of the masked model")
    parser.add_argument("--target", type=Path, default=house_folder("target"), help="folder of the target")
    parser.add_argument("--draft", type=Path, default=house_folder("draft"), help="folder of the draft")
    parser.add_argument("--shape", choices=["target", "draft"], default="target", help="what `train` trains")
    parser.add_argument("--start", type=Path, help="folder of a trained model to go on from")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--epochs", type=float, default=20.0, help="passes over the corpus")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit; the rate still decays to zero")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens of one optimiser step")
    parser.add_argument("--written-rows", type=int, default=192, help="rows that the target writes for the draft")
    parser.add_argument("--dropout", type=float, default=0.0, help="of the target's blocks, in training only")
    parser.add_argument("--bfloat16", action="store_true", help="of `draft_head`, on a CPU that has units for it")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    """Run one stage."""
    a = _parser().parse_args()
    if a.stage == "prepare":
        from runtime.training.house.prepare import prepare

        print(json.dumps(prepare(a.work, a.tokenizer), indent=2))
    elif a.stage == "train":
        from runtime.models.house.shapes import DRAFT, TARGET
        from runtime.training.house.train import Regime, train

        folder, shape = (a.target, TARGET) if a.shape == "target" else (a.draft, DRAFT)
        regime = Regime(a.device, a.epochs, a.minutes, a.batch_tokens, a.seed, a.dropout)
        train(a.work, folder, shape, regime, a.start)
    elif a.stage == "distil":
        from runtime.training.house.distil import distil_draft
        from runtime.training.house.train import Regime

        regime = Regime(a.device, a.epochs, a.minutes, a.batch_tokens, a.seed)
        distil_draft(a.work, a.target, a.draft, regime, a.written_rows, a.start)
    elif a.stage == "diffusion":
        from runtime.training.house.masked import train_masked
        from runtime.training.house.train import Regime

        train_masked(a.work, a.target, a.diffusion, Regime(a.device, a.epochs, a.minutes, a.batch_tokens, a.seed))
    elif a.stage == "draft_head":
        from runtime.training.house.draft_head import train_draft_head
        from runtime.training.house.train import Regime

        regime = Regime(a.device, a.epochs, a.minutes, a.batch_tokens, a.seed, bfloat16=a.bfloat16)
        train_draft_head(a.work, a.diffusion, regime)
    elif a.stage == "evaluate":
        from runtime.training.house.evaluate import evaluate

        _keep(evaluate(a.work, a.target, a.draft, a.seed), house_folder("target").parent / "evaluation.json")
    else:
        from runtime.training.house.make_prompts import make_prompts

        folder = house_folder("target").parent / "prompts"
        _keep(make_prompts(a.work, a.target, folder, a.seed), folder / "left_out.json")


def _keep(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(path.read_text(), end="")


if __name__ == "__main__":
    main()
