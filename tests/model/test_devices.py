from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch

from cryoden.model import devices, predictor
from tests.helpers import Result, read_mrc, write_mrc

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "has_it"),
    [("fpu avx512f avx512_bf16 sse", True), ("amx_bf16\n", True), ("avx512f not_avx512_bf16", False), (None, False)],
)
def test_bfloat16_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, has_it: bool) -> None:
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        devices.CPU_INFO.write_text(f"model name : x\nflags : {flags}")
    assert devices.has_bfloat16(CPU) is has_it
    assert not devices.is_16_bit(CPU, "auto")  # training on CPUs stays in float32


def test_denoising_takes_bfloat16_where_the_cpu_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cryoden: Callable[..., Result], make_model: Callable
) -> None:
    write_mrc(tmp_path / "a.mrc", np.random.default_rng(1).normal(20, 3, (90, 70)))
    words = ["denoise", "a.mrc", "--model", make_model(network="unet", channels=(8, 16))]
    monkeypatch.setattr(predictor, "has_bfloat16", lambda device: True)
    for precision in ("auto", "bfloat16", "float32"):
        assert cryoden(*words, "--output", precision, "--precision", precision).status == 0
    auto, narrow, wide = (read_mrc(Path(name) / "a.mrc") for name in ("auto", "bfloat16", "float32"))
    np.testing.assert_array_equal(auto, narrow)
    assert 0 < np.abs(narrow - wide).std() < 0.05 * wide.std()
