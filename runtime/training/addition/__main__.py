"""Train the addition pair: ``python -m runtime.training.addition target | draft``."""

import argparse
from pathlib import Path

from runtime.models.house.prompt import house_folder
from runtime.training.addition.train import SHAPES, train_pair_member


def main() -> None:
    """Train one of the two."""
    parser = argparse.ArgumentParser(prog="python -m runtime.training.addition", description=__doc__)
    parser.add_argument("name", choices=list(SHAPES))
    parser.add_argument("--work", type=Path, default=Path("out/addition"), help="folder of tokenizer and checkpoints")
    parser.add_argument("--output", type=Path, help="folder of the model; the one that ships by default")
    parser.add_argument("--minutes", type=float, default=8.0, help="of processor time; the rate decays to zero")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    output = a.output or house_folder("addition/target").parent / a.name
    train_pair_member(a.name, a.work, output, a.minutes, a.seed)


if __name__ == "__main__":
    main()
