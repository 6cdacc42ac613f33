"""Devices: every figure says where it is from, and a user's file is read as the shipped one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from reader_theory.cost.device import find_device, load_devices, measure_this_machine
from reader_theory.errors import InvalidInputError

ASKED = ("A100-40GB-SXM", "A100-80GB-SXM", "H100-SXM", "H100-PCIe", "H200-SXM", "B200-SXM", "L4", "L40S", "A10G")


def test_every_shipped_figure_has_a_source_and_a_kind() -> None:
    devices = load_devices()
    assert {*ASKED, "RTX-4090", "MI300X"} <= set(devices)
    for device in devices.values():
        figures = [x for x in device.__dict__.values() if hasattr(x, "source")]
        assert len(figures) >= 6 and all(f.source and f.kind in ("vendor", "measured", "recalled") for f in figures)


def test_a_device_is_found_by_any_spelling_of_its_alias() -> None:
    assert find_device("h100_sxm") == find_device("H100-SXM") == find_device("h100")
    assert find_device("RTX4090").multiprocessors.value == 128


def test_a_users_device_is_found_before_the_shipped_ones(tmp_path: Path) -> None:
    text = "[mine]\naliases = ['h100']\n"
    for name in ("bf16_flops_per_s", "bandwidth_bytes_per_s", "memory_bytes", "l2_bytes", "link_bytes_per_s"):
        text += f"{name} = {{ value = 1e9, kind = 'measured', source = 'mine' }}\n"
    path = tmp_path / "mine.toml"
    path.write_text(text + "multiprocessors = { value = 2, kind = 'measured', source = 'mine' }\n")
    assert find_device("h100", path).name == "mine"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="multiprocessors"):
        load_devices(path)


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match="H100-SXM"):
        find_device("H900")


def test_this_machine_is_measured_with_numpy() -> None:
    device = measure_this_machine(megabytes=4, side=64, repeats=1)
    assert device.bandwidth_bytes_per_s.kind == "measured" and device.bandwidth_bytes_per_s.value > 1e8
    assert device.flops_per_s("fp8") == device.flops_per_s() > 1e6
