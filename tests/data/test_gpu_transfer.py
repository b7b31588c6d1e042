from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
import torch

from cryoden.data import gpu_transfer
from cryoden.data.gpu_transfer import GpuTransfer, ready
from cryoden.formats.images import open_micrograph
from tests.helpers import write_mrc

DEVICES = [
    torch.device("cpu"),
    pytest.param(
        torch.device("cuda"),
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
    ),
]
on_every_device = pytest.mark.parametrize("device", DEVICES, ids=str)


@pytest.fixture(autouse=True)
def _many_bands(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small images, of several bands of 7 rows each."""
    monkeypatch.setattr(gpu_transfer, "rows_of_band", lambda n_columns, item_bytes: 7)
    return iter(())


def image_of(seed: int, shape: tuple = (50, 33)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@on_every_device
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8, np.float16])
def test_file_arrives_as_float32(tmp_path: Path, device: torch.device, dtype: type) -> None:
    image = (30 * image_of(1)).clip(0, 120).astype(dtype)
    write_mrc(tmp_path / "a.mrc", image)
    transfer = GpuTransfer(device)
    with transfer.stream():
        pixels = transfer.upload(open_micrograph("a.mrc"))
    pixels = transfer.synchronize(pixels)
    assert (pixels.device.type, pixels.dtype) == (device.type, torch.float32)
    np.testing.assert_array_equal(pixels.cpu().numpy(), image.astype(np.float32))


@on_every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_image_comes_back_in_bands_of_its_own_kind(device: torch.device, dtype: torch.dtype) -> None:
    image = torch.from_numpy(image_of(2)).to(device, dtype)
    transfer = GpuTransfer(device)
    with transfer.stream(ready(image)):
        bands = [band.copy() for band in transfer.download(image)]
    np.testing.assert_array_equal(np.concatenate(bands), image.cpu().numpy())
    assert len(bands) == (1 if device.type == "cpu" else 8)


@on_every_device
def test_work_on_an_image_waits_until_it_has_arrived(tmp_path: Path, device: torch.device) -> None:
    """What the default stream computes of uploaded images, one after the other through the same pinned buffers."""
    for number in range(6):
        write_mrc(tmp_path / f"{number}.mrc", image_of(number))
    transfer = GpuTransfer(device)
    results = []
    for number in range(6):
        with transfer.stream():
            pixels = transfer.upload(open_micrograph(f"{number}.mrc"))
        doubled = 2 * transfer.synchronize(pixels)
        with transfer.stream(ready(doubled)):
            results.append(np.concatenate([band.copy() for band in transfer.download(doubled)]))
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result, 2 * image_of(number))


@on_every_device
def test_threads_share_a_transfer_without_mixing_images(tmp_path: Path, device: torch.device) -> None:
    for number in range(12):
        write_mrc(tmp_path / f"{number}.mrc", image_of(number))
    transfer = GpuTransfer(device)

    def there_and_back(number: int) -> np.ndarray:
        with transfer.stream():
            pixels = transfer.synchronize(transfer.upload(open_micrograph(f"{number}.mrc")))
            return np.concatenate([band.copy() for band in transfer.download(pixels)])

    with ThreadPoolExecutor(4) as pool:
        for number, result in enumerate(pool.map(there_and_back, range(12))):
            np.testing.assert_array_equal(result, image_of(number))


def test_nothing_is_to_be_waited_for_on_a_cpu() -> None:
    assert ready(torch.zeros(3)) is None
