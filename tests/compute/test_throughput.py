"""Throughput: the table, and lines between measured sizes."""

import pytest

from carbs_scaling.compute.throughput import DEVICES, Throughput, device_named, table_throughput
from carbs_scaling.errors import ConfigError


def test_a_device_of_the_table_reaches_its_share_at_every_size():
    for name, device in DEVICES.items():
        rate = table_throughput(name.upper(), 0.4)
        assert rate.at(1e3) == rate.at(1e12) == pytest.approx(0.4 * device.peak_flops)
        assert device.source
    with pytest.raises(ConfigError, match="choose from"):
        table_throughput("abacus", 0.4)


def test_between_sizes_the_rate_is_a_power_law_and_outside_level():
    rate = Throughput((1e4, 1e6), (1e8, 1e10), "by hand")
    assert rate.at(1e5) == pytest.approx(1e9)
    assert rate.at(1e3) == pytest.approx(1e8)
    assert rate.at(1e7) == pytest.approx(1e10)


def test_a_device_is_found_by_pytorchs_name_for_it():
    names = {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA GeForce RTX 4090": 165e12,
        "Tesla V100": None,
        "NVIDIA L4": 121e12,
        "NVIDIA L40": None,
        "NVIDIA A10G": None,
        "NVIDIA RTX A1000": None,
    }
    found = {name: device_named(name) for name in names}
    assert {name: device and device.peak_flops for name, device in found.items()} == names
