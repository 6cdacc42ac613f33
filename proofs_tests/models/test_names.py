"""A name under which no model can be found fails at once, with the way out; so does a folder that cannot be opened."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from proofs_tests.tiny import tiny_model
from reader_theory.errors import InvalidInputError
from runtime.models.load import load_model


def _no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    tried: list[Any] = []

    def refused(address: Any, *_: Any, **__: Any) -> Any:
        tried.append(address)
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tried


@pytest.mark.parametrize("name", ["no/such/folder/here", "./nowhere", "a name with spaces", "/tmp/nothing-there"])
def test_what_cannot_be_a_hub_name_is_refused_without_a_look_at_the_network(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = _no_network(monkeypatch)
    with pytest.raises(InvalidInputError, match="folders or hub names"):
        load_model(name)
    assert not tried


def test_a_hub_name_is_asked_for_once_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _no_network(monkeypatch)
    with pytest.raises(InvalidInputError, match="does not answer"):
        load_model("nobody/nothing-of-this-name")
    assert len(tried) == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidInputError, match="HF_HUB_OFFLINE is set"):
        load_model("nobody/nothing-of-this-name")
    assert len(tried) == 1


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "nothing-known"])
def test_a_quantised_folder_without_its_library_is_refused_with_the_reason(tmp_path: Path, method: str) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    block = {"quant_method": method, "bits": 4, "group_size": 32, "load_in_8bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": block}))
    with pytest.raises(InvalidInputError, match="quantised ones need their library"):
        load_model(tmp_path)
