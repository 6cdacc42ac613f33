"""Every shipped prompt: greedy output is the target's own `generate`, token for token, whatever drafts and batch."""

from __future__ import annotations

import pytest
import torch

from reader_theory.documents import Chain, policy_of
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.house import house_folder, load_prompts
from runtime.models.load import load_model, load_tokenizer

NEW_TOKENS = 24
TREE = TokenTree.from_rank_paths([(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0)])
CHAIN = Chain(min_match=1, offset=1.0, factor=1.0, max_tokens=16)
POLICIES = {
    "neural": policy_of(TREE),
    "retrieval": CHAIN,
    "both": policy_of(TREE, CHAIN),
}


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["code", "copy", "prose"])
def test_greedy_output_is_the_targets_own_on_every_shipped_prompt(workload: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(house_folder("target"), dtype=torch.float32)
    tokenizer = load_tokenizer(house_folder("target"))
    prompts = [tokenizer(p.text, return_tensors="pt")["input_ids"] for p in load_prompts(workload)]
    alone = [
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS,
                       eos_token_id=None)[0, ids.shape[1]:].tolist()
        for ids in prompts
    ]  # fmt: skip
    target, draft = load_model(house_folder("target"), "float32"), load_model(house_folder("draft"), "float32")
    for batch in (1, 4):
        engine = Engine(target, draft, max_batch=batch, max_context=512)
        for name, policy in POLICIES.items():
            engine.use(policy)
            done = engine.generate([ids[0].numpy() for ids in prompts], SamplingParams(max_new_tokens=NEW_TOKENS))
            different = [i for i, (ours, own) in enumerate(zip(done, alone, strict=True)) if list(ours.tokens) != own]
            assert not different, f"{workload}, batch {batch}, {name}: prompts {different}"
