"""transformers itself loads the export, and drafts by it: same tokens, in fewer forwards."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from optimizer.export import engine_format
from proofs_tests.documents.documents_examples import CHAIN_3, OFF, TREE, entry, plan
from proofs_tests.export.exports import export_transformers
from reader_theory.documents import Chain, Policy
from reader_theory.errors import UnsupportedByEngineError

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

LOOKUP = Chain(min_match=1, offset=4, factor=0, max_tokens=4)
LOOKUP_FROM_2 = Chain(min_match=2, offset=4, factor=0, max_tokens=4)


def exported(policy: Policy, **changes: Any) -> dict[str, Any]:
    fields = export_transformers(plan(entry(1, policy), entry(4, TREE), **changes), "chat")
    Draft202012Validator(engine_format("transformers").schema).validate(fields)
    return fields


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("policy", [OFF, CHAIN_3, LOOKUP])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_generation_config_takes_every_field(policy: Policy, temperature: float) -> None:
    fields = exported(policy, temperature=temperature)
    config = transformers.GenerationConfig(**fields)
    config.validate(strict=True)
    assert {name: getattr(config, name) for name in fields} == fields
    known = transformers.GenerationConfig().to_dict()
    assert fields.keys() <= known.keys(), "every field is one that transformers knows"
    again = transformers.GenerationConfig.from_dict(config.to_dict())
    assert {name: getattr(again, name) for name in fields} == fields


def forwards(model: Any, run: Any) -> tuple[list[int], list[int]]:
    """Tokens generated, and the query length of each forward of `model`."""
    widths: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        return run()[0].tolist(), widths
    finally:
        hook.remove()


@pytest.mark.parametrize("policy", [CHAIN_3, LOOKUP])
def test_generate_drafts_as_long_as_planned_and_stays_lossless(model: Any, policy: Policy) -> None:
    prompt = torch.tensor([[1, 2, 3, 4, 1, 2, 3, 4, 1, 2]])
    common = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = model.generate(prompt, **common)[0].tolist()

    config = transformers.GenerationConfig(**exported(policy), **common)
    helper = transformers.LlamaForCausalLM(model.config).eval()
    helper.load_state_dict(model.state_dict())
    helper.generation_config.update(**exported(policy))
    extra = {"assistant_model": helper} if policy.fixed else {}
    tokens, widths = forwards(model, lambda: model.generate(prompt, generation_config=config, **extra))

    assert tokens == plain
    most = 1 + max(policy.tree.nodes, policy.retrieved.max_tokens if policy.retrieved else 0)
    assert max(widths[1:]) == most, "a step verifies the pending token and the planned drafts"


def test_batch_1_alone_is_exported() -> None:
    with pytest.raises(UnsupportedByEngineError, match="runs no other"):
        export_transformers(plan(entry(4, CHAIN_3)), "chat")


@pytest.mark.parametrize("policy", [TREE, LOOKUP_FROM_2])
def test_what_assisted_generation_cannot_do_is_refused(policy: Policy) -> None:
    made = plan(entry(1, policy))
    with pytest.raises(UnsupportedByEngineError, match=r"chain 3, 1\.8 tokens a step instead of 2"):
        export_transformers(made, "chat")
    assert export_transformers(made, "chat", nearest=True)["num_assistant_tokens"] == 3
