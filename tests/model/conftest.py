"""What several tests of the denoiser have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import clean_signal, write_mrc


@pytest.fixture
def micrographs(tmp_path: Path) -> Path:
    """Three noisy micrographs in `raw/`."""
    for number in range(3):
        noise = np.random.default_rng(number).standard_normal((60, 70))
        write_mrc(tmp_path / "raw" / f"mic{number}.mrc", 50 + 5 * (clean_signal((60, 70), number) + noise))
    return tmp_path / "raw"
