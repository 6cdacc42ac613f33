"""House models: what ships is what the card says, it loads the ordinary way, and its prompts are whole and held out."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reader_theory.errors import InvalidInputError
from runtime.models.house import WORKLOADS, house_folder, load_prompts
from runtime.training.house.corpus import part_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MEBIBYTE = 2**20
LEFT_OUT_WHOLE = ("idlelib/", "LICENSE.txt", "email/architecture.rst")


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return transformers.AutoTokenizer.from_pretrained(house_folder("target"))


MEGABYTES = {"smollm2_head": 20, "diffusion": 8, "addition": 6}
"""What a folder of the house models may hold; all others together 16."""


def test_the_house_models_stay_small() -> None:
    folder = house_folder("target").parent
    held = dict.fromkeys((*MEGABYTES, ""), 0)
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            part = path.relative_to(folder).parts[0]
            held[part if part in MEGABYTES else ""] += path.stat().st_size
    assert all(0 < size <= MEGABYTES.get(part, 16) * 10**6 for part, size in held.items()), held


@pytest.mark.parametrize("name", ["target", "draft"])
def test_weights_ship_in_half_precision_with_a_tied_head(name: str) -> None:
    from safetensors import safe_open

    with safe_open(house_folder(name) / "model.safetensors", framework="pt") as file:
        assert {str(file.get_tensor(key).dtype) for key in file.keys()} == {"torch.float16"}  # noqa: SIM118
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118


@pytest.mark.parametrize("name", ["target", "draft"])
def test_a_plain_from_pretrained_gives_a_model_that_knows_python(name: str, tokenizer: object) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(house_folder(name), dtype="float32").eval()
    ids = tokenizer("import os\n\n\ndef main():\n    for i in range(10", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = model(input_ids=ids).logits[0, -1].topk(5).indices.tolist()
    assert any(tokenizer.decode([token]).startswith((")", ",")) for token in best)


def test_target_and_draft_share_their_tokens(tokenizer: object) -> None:
    draft = transformers.AutoTokenizer.from_pretrained(house_folder("draft"))
    assert draft.get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) == 4096


@pytest.mark.parametrize("workload", WORKLOADS)
def test_prompts_are_whole_tokens_and_come_in_two_halves(workload: str, tokenizer: object) -> None:
    prompts = load_prompts(workload)
    assert len({p.id for p in prompts}) == len(prompts)
    for prompt in prompts:
        ids = tokenizer(prompt.text)["input_ids"]
        assert tokenizer.decode(ids) == prompt.text
        assert tokenizer(prompt.text + "\n    x")["input_ids"][: len(ids)] == ids
    fit, test = (load_prompts(workload, split) for split in ("fit", "test"))
    assert min(len(fit), len(test)) >= 128
    assert not {p.text for p in fit} & {p.text for p in test}
    assert fit + test == prompts


def test_no_file_feeds_both_splits_and_none_was_trained_on() -> None:
    prompts = [prompt for workload in WORKLOADS for prompt in load_prompts(workload)]
    fit, test = ({p.source for p in prompts if p.split == split} for split in ("fit", "test"))
    assert not fit & test
    for name in fit | test:
        assert name.startswith(LEFT_OUT_WHOLE) or part_of(name) == "heldout"


def test_an_unknown_workload_or_split_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="workload"):
        load_prompts("poetry")
    with pytest.raises(InvalidInputError, match="split"):
        load_prompts("code", "validation")


def test_loops_are_found_where_the_rule_says() -> None:
    from runtime.training.house.continuation import holds_loop

    straight = list(range(64))
    assert not holds_loop(straight)
    assert holds_loop(straight[:32] + [1, 2, 3, 4] * 8)
    assert not holds_loop(straight[:36] + [1, 2, 3, 4] * 7)
    assert holds_loop(straight[:10] + [7] * 32 + straight[:22])
    assert not holds_loop([7] * 64 + straight)
    assert not holds_loop(straight[:17] * 4)  # period 17 is past the longest


def test_a_planted_copy_is_a_copy_and_stays_within_the_window() -> None:
    from runtime.training.house.windows import CopyMaterial, plant_copy

    rng = np.random.default_rng(0)
    material = CopyMaterial((np.array([1, 2, 3]),), np.array([], np.int64))
    for length in (256, 512):
        window = np.arange(10, 10 + length)
        plant_copy(rng, window, material)
        repeated = _longest_repeat(window)
        assert len(window) == length
        assert repeated >= 16


def _longest_repeat(window: np.ndarray) -> int:
    runs: Iterator[np.ndarray] = (window[gap:] == window[:-gap] for gap in range(1, len(window)))
    return max(max(map(len, "".join("x" if s else " " for s in same).split()), default=0) for same in runs)


def test_muon_steps_are_nearly_orthogonal() -> None:
    from runtime.training.house.muon import orthogonalised

    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    spread = torch.linalg.svdvals(orthogonalised(matrices))
    assert spread.min() > 0.3
    assert spread.max() < 1.3
    assert torch.allclose(orthogonalised(matrices.mT), orthogonalised(matrices).mT, atol=1e-4)


def test_chain_steps_count_like_a_walk_by_hand() -> None:
    from runtime.training.house.evaluate import chain_steps

    assert chain_steps(np.array([1, 1, 1, 1, 0, 1, 0, 0], bool)) == 3  # 4 and a bonus; 1 and a correction; a correction
    assert chain_steps(np.zeros(5, bool)) == 5


def test_card_states_the_numbers_that_were_measured() -> None:
    folder = house_folder("target").parent
    card, measured = (folder / "README.md").read_text(), json.loads((folder / "evaluation.json").read_text())
    assert f"{measured['target']['validation_loss']:.3f}" in card
    assert f"{measured['pair on heldout text']['top_1']:.3f}" in card
    assert f"{measured['target']['copy_accuracy']:.3f}" in card


def test_corpus_files_fall_in_fixed_parts(tmp_path: Path) -> None:
    from runtime.training.house.corpus import documents

    body = (
        '"""' + "A module that is documented at length, so that this string counts as prose. " * 3 + '"""\nvalue = 1\n'
    )
    for name in ("a.py", "b.py", "broken.py"):
        (tmp_path / name).write_text(body if name != "broken.py" else "def (:\n" * 20)
    found = documents(tmp_path)
    assert [(d.name, d.kind) for d in found] == [(n, k) for n in ("a.py", "b.py") for k in ("source", "prose")]
    assert all(d.part == part_of(d.name) for d in found)
