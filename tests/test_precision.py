"""bf16 on CPUs that have instructions for it, and on others."""

import pytest
import torch
from torch import optim

from unireal.training import precision
from unireal.training.cli import main
from unireal.training.precision import Float32Muon, slowdown_of_bf16


@pytest.fixture(params=[40.0, 0.5], ids=["slow bf16", "fast bf16"])
def slowdown(request, monkeypatch):
    monkeypatch.setattr(precision, "_seconds", lambda dtype: request.param if dtype is torch.bfloat16 else 1.0)
    slowdown_of_bf16.cache_clear()
    yield request.param
    slowdown_of_bf16.cache_clear()


@pytest.mark.usefixtures("small_training")
def test_a_run_in_bf16_on_a_cpu_that_is_slow_in_it_tells_the_remedy(slowdown, tmp_path, caplog):
    run = ("debug", "--output", str(tmp_path / "run"), "--optimizer.muon-lr", "0.01", "--precision", "bf16", "--steps")
    assert main([*run, "1"]) == 0
    told = "bf16 takes this CPU 40 times as long as float32, for lack of instructions; give --precision no"
    assert (told in caplog.text) == (slowdown > 1)
    assert main([*run, "2", "--resume"]) == 0  # with the same optimizer


def test_muon_in_float32_goes_the_way_of_torchs():
    torch.manual_seed(0)
    start, gradient = torch.randn(2, 24, 40)
    ends = []
    for kind in (optim.Muon, Float32Muon):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=0.1, weight_decay=0.0)
        for factor in (1.0, -0.5, 2.0):
            parameter.grad = factor * gradient
            optimizer.step()
            assert torch.equal(parameter.grad, factor * gradient)
        ends.append(parameter.detach())
    way = (ends[0] - start).norm()
    assert 0 < (ends[1] - ends[0]).norm() < 0.03 * way  # torch's rounds to bf16
    buffer = optimizer.state[parameter]["momentum_buffer"]
    assert buffer.dtype == torch.float32 and parameter.dtype == torch.float32
