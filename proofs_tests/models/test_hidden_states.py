"""A forward gives the residual stream before the layers asked for, as transformers counts them, of every node.

Past the last layer that is what the output head reads.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from proofs_tests.tiny import random_prompts, tiny_model
from runtime.models.inputs import run_prompt, run_trees
from runtime.models.load import Forward, wrap

LAYERS = (1, 0, 2)


@pytest.mark.parametrize(("family", "forward"), [("llama", "lean"), ("llama", "transformers"), ("gpt2", "auto")])
def test_hidden_states_of_prompt_and_tree_are_those_of_transformers(family: str, forward: Forward) -> None:
    whole = tiny_model(family).double()  # in float32 the order of sums, which is the processor's, is seen
    model, prompt = wrap(whole, forward), np.array(random_prompts(1)[0].tokens, dtype=np.int64)
    tail = np.array([[5, 7, 9, 11]], dtype=np.int64)  # 5 with children 7 and 9; 11 under 9
    cache = model.new_cache(1, 128)
    before = run_prompt(model, cache, prompt, 0, chunk=3, hidden=LAYERS)
    after = run_trees(model, cache, tail, np.array([[-1, 0, 0, 2]]), np.array([4]), hidden=LAYERS)
    for path in ([0, 1], [0, 2, 3]):
        ids = torch.from_numpy(np.concatenate((prompt, tail[0, path])))[None]
        with torch.inference_mode():
            expected = whole(ids, output_hidden_states=True)
        for i, layer in enumerate(LAYERS):
            found = torch.cat((before.hidden[i][0], after.hidden[i][0, path]))
            torch.testing.assert_close(found, expected.hidden_states[layer][0], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(before.logits[0, 0], expected.logits[0, len(prompt) - 1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after.logits[0, path], expected.logits[0, len(prompt) :], rtol=1e-4, atol=1e-4)
