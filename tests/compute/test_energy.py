"""Energy: what a fake NVML, made-up RAPL files and the estimates must give, and a GPU's own counter."""

import os
import sys
import time

import pytest

from carbs_scaling.carbon import GRAMS_PER_KWH
from carbs_scaling.compute import energy_counters
from carbs_scaling.compute.energy import CORE_WATTS, EnergyMeter, MeteredJob, co2_grams
from carbs_scaling.compute.energy_counters import RaplCounter, nvml_counter
from carbs_scaling.config import EnergyConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.trial import Completed, TrialOutcome

H100 = "NVIDIA H100 80GB HBM3"


def config(**changes):
    return EnergyConfig(**{"measure": True, "watts": None, "country": "DEU", "grams_per_kwh": None} | changes)


class FakeNvml:
    """Three GPUs whose counters, in millijoules, a test moves."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self):
        self.millijoules = {"GPU-a": 1e6, "GPU-b": 2e6, "GPU-c": 3e6}
        self.works = True

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index):
        return list(self.millijoules)[index]

    def nvmlDeviceGetHandleByUUID(self, name):
        return name

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if not self.works:
            raise self.NVMLError("Not Supported")
        return int(self.millijoules[handle])


@pytest.fixture
def nvml(monkeypatch, tmp_path):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(energy_counters, "POWERCAP", tmp_path / "none")
    monkeypatch.setattr(energy_counters.RaplCounter.__init__, "__defaults__", (tmp_path / "none", tmp_path))
    return fake


@pytest.mark.parametrize("visible", [None, "1,2", "GPU-b,GPU-c"])
def test_a_gpu_is_measured_by_its_own_counter(nvml, monkeypatch, visible):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    meter = EnergyMeter(config(), [0], sharing=2)
    nvml.millijoules[("GPU-a" if visible is None else "GPU-b")] += 7200e3
    nvml.millijoules["GPU-c"] += 5e9  # somebody else's
    energy = meter.energy(H100)
    assert energy.joules == pytest.approx(7200 / 2)
    assert energy.co2_grams == pytest.approx(3600 / 3.6e6 * GRAMS_PER_KWH["DEU"])
    assert energy.measured
    assert energy.source == "measured: NVML"


def test_a_gpu_without_the_counter_is_estimated(nvml, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    meter = EnergyMeter(config(), [0])
    nvml.works = False  # it fails on the way
    assert meter.energy(H100).source == "estimated: 700 W a GPU"
    assert EnergyMeter(config(), [0]).energy(H100).source == "estimated: 700 W a GPU"  # from the start
    assert nvml_counter([5], 1) is None  # there is no such GPU
    assert EnergyMeter(config(measure=False), [0]).energy("some card") is None
    assert EnergyMeter(config(measure=False, watts=300), [0]).energy("some card").joules > 0


def test_an_estimate_is_watts_times_seconds(monkeypatch):
    meter = EnergyMeter(config(measure=False, watts=100, grams_per_kwh=500), range(4))
    energy = meter.energy(H100, seconds=3600, processes=2)  # it went on from a checkpoint
    assert energy.joules == pytest.approx(2 * 4 * 100 * 3600)
    assert energy.co2_grams == pytest.approx(0.8 * 500) == co2_grams(energy.joules, 500)
    assert not energy.measured

    meter = EnergyMeter(config(measure=False), [])
    busy = time.process_time()
    while time.process_time() < busy + 0.2:
        pass
    assert meter.energy("cpu").joules == pytest.approx(CORE_WATTS * 0.2, abs=CORE_WATTS * 0.1)


def test_rapl_counts_packages_and_memory_by_the_share_of_busy_time(tmp_path, monkeypatch):
    def write(zone, name, microjoules):
        (tmp_path / zone).mkdir(exist_ok=True)
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("1000000000")
        (tmp_path / zone / "energy_uj").write_text(str(microjoules))

    tick = os.sysconf("SC_CLK_TCK")

    def stat(busy_seconds):
        user, system = int(0.75 * busy_seconds * tick), int(0.25 * busy_seconds * tick)
        (tmp_path / "stat").write_text(f"cpu {user} 0 {system} 12345 99 0 0 0 0 0\ncpu0 1 2 3\n")

    with pytest.raises(OSError, match="no RAPL"):
        RaplCounter(tmp_path, tmp_path / "stat")
    stat(0)
    write("intel-rapl:0", "package-0", 999_000_000)
    write("intel-rapl:0:0", "core", 5)
    write("intel-rapl:0:1", "dram", 1_000_000)
    write("intel-rapl:1", "psys", 5)
    seconds = iter([10.0, 14.0])
    monkeypatch.setattr(energy_counters, "_process_seconds", lambda: next(seconds))
    counter = RaplCounter(tmp_path, tmp_path / "stat")
    write("intel-rapl:0", "package-0", 59_000_000)  # it began anew: 60 J
    write("intel-rapl:0:0", "core", 90_000_000)
    write("intel-rapl:0:1", "dram", 3_000_000)
    write("intel-rapl:1", "psys", 90_000_000)
    stat(16)
    assert counter.joules() == pytest.approx((60 + 2) * 4 / 16)
    counter.close()


def test_a_job_tells_its_energy_and_the_ledger_keeps_it():
    job = MeteredJob(lambda: Completed(loss=1.0, seconds=1e4, device="cpu"), config(), "cpu")
    outcome = job()
    assert outcome.loss == 1.0
    assert outcome.energy.joules >= 0
    assert TrialOutcome.from_dict(outcome.to_dict()) == outcome


def test_a_country_that_is_not_in_the_table_is_refused():
    with pytest.raises(ConfigError, match=r"energy\.country=ATL is not in the table"):
        config(country="ATL")
    assert config(country="ATL", grams_per_kwh=20.0).intensity == 20
    with pytest.raises(ConfigError, match="not negative"):
        config(watts=-1.0)


@pytest.mark.cuda
def test_a_real_gpu_draws_between_idle_and_twice_its_limit():
    pynvml = pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    import torch

    meter = EnergyMeter(config(), [0])
    begun, matrix = time.monotonic(), torch.randn(4096, 4096, device="cuda")
    while time.monotonic() < begun + 2:
        matrix = torch.nn.functional.normalize(matrix @ matrix)
        torch.cuda.synchronize()
    energy = meter.energy(torch.cuda.get_device_name(0))
    seconds = time.monotonic() - begun
    limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(pynvml.nvmlDeviceGetHandleByIndex(0)) / 1e3
    assert energy.source.startswith("measured: NVML")
    print(f"{energy.joules / seconds:.0f} W of {limit:.0f} W")
    assert 20 < energy.joules / seconds < 2 * limit
