from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cryoden.errors import FileError, ModelError
from cryoden.formats.model_file import FORMAT, ModelCard, read_card, read_model, write_model

NORMALIZATION = {"kind": "p95", "mean": 0.75, "deviation": 0.125}
CARD = {"network": "cnn3", "channels": [], "sampling_rate": 3.5, "training": {}, "version": "1"}


def write_metadata(path: Path, card: Any) -> Path:
    text = card if isinstance(card, str) else json.dumps(card)
    save_file({"w": np.ones(3, np.float32)}, str(path), {"format": FORMAT, "card": text})
    return path


def test_model_survives(tmp_path: Path) -> None:
    weights = {"a.weight": np.random.default_rng(1).normal(size=(80, 9)).astype(np.float32), "b": np.ones(1)}
    card = ModelCard("unet", (4, 8), 3.25, NORMALIZATION, {"r2": 0.5, "epoch": 3})
    write_model(tmp_path / "m.safetensors", weights, card)
    found_card, found = read_model(tmp_path / "m.safetensors")
    assert found_card == card
    assert found_card.r2 == 0.5
    assert set(found) == set(weights)
    for name in weights:
        np.testing.assert_array_equal(found[name], weights[name])
        assert found[name].dtype == weights[name].dtype


def test_model_may_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    write_model(tmp_path / "m.safetensors", {"w": np.ones(3, np.float32)}, ModelCard("cnn3", (), 1.0))
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_transposed_weights_survive(tmp_path: Path) -> None:
    """Safetensors writes memory as it lies, so that a view would be scrambled without a copy."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_model(tmp_path / "m.safetensors", {"w": array}, ModelCard("cnn3", (), 1.0))
    np.testing.assert_array_equal(read_model(tmp_path / "m.safetensors")[1]["w"], array)


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        read_card(tmp_path / "m.safetensors")
    assert str(caught.value) == f"{tmp_path / 'm.safetensors'} does not exist or is no file; check the path."


def test_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is no file"):
        read_card(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x04\x95" * 100])
def test_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_card(path)
    assert str(caught.value).startswith(f"{path} is no model: it is not a safetensors file (")
    assert str(caught.value).endswith("). Give a model that cryoden trained.")


def test_truncated_model(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_model(path, {"w": np.ones(1000, np.float32)}, ModelCard("cnn3", (), 1.0))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelError, match="is no model"):
        read_card(path)


@pytest.mark.parametrize(("metadata", "named"), [(None, "no format named"), ({"format": "pt"}, "pt")])
def test_safetensors_for_another_purpose(tmp_path: Path, metadata: Any, named: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": np.ones(3)}, str(path), metadata)
    with pytest.raises(ModelError) as caught:
        read_card(path)
    assert str(caught.value) == (
        f"{path} is a safetensors file for another purpose ({named}); give a model that cryoden trained."
    )


@pytest.mark.parametrize(
    "card",
    [
        "{broken",
        "[]",
        "5",
        {"network": "cnn3"},
        {**CARD, "new": 1},
        {**CARD, "channels": 5},
        {**CARD, "channels": ["a", "b"]},
        {**CARD, "network": "unet", "channels": []},
        {**CARD, "network": "resunet", "channels": []},
        {**CARD, "network": "unet", "channels": [4, -8]},
        {**CARD, "sampling_rate": "three"},
        {**CARD, "sampling_rate": None},
        {**CARD, "sampling_rate": 0},
        {**CARD, "training": "long"},
    ],
    ids=str,
)
def test_damaged_metadata(tmp_path: Path, card: Any) -> None:
    path = write_metadata(tmp_path / "m.safetensors", card)
    with pytest.raises(ModelError, match="has damaged metadata"):
        read_card(path)


UNET = {**CARD, "network": "unet", "channels": [4, 8]}
WIDE, DEEP = 100_000, "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "card",
    [
        {**UNET, "channels": [WIDE]}, {**UNET, "channels": [8192, 8192, 8192]}, {**UNET, "channels": [1] * 1000},
        {**UNET, "channels": [True, True]}, {**UNET, "channels": [4.0, 8]}, {**UNET, "channels": [10**30]},
        {**UNET, "channels": [10**400]}, {**CARD, "sampling_rate": True}, {**CARD, "sampling_rate": 10**30},
        {**CARD, "sampling_rate": 10**400}, {**CARD, "sampling_rate": float("nan")}, {**CARD, "sampling_rate": 1e-9},
        {**CARD, "sampling_rate": float("inf")}, {**CARD, "network": None}, {**CARD, "network": ["unet"]},
        {**CARD, "normalization": {"kind": "standard", "mean": None}}, {**CARD, "normalization": {"mean": [0]}},
        {**CARD, "normalization": {"deviation": 10**400}}, {**CARD, "normalization": []}, {**CARD, "version": 2},
        {**CARD, "training": {"r2": "good"}}, {**CARD, "training": None}, {**CARD, "channels": None},
        f'{{"network": "unet", "channels": {DEEP}}}', DEEP, "", "null", "NaN",
    ],
    ids=lambda card: str(card)[:80],
)  # fmt: skip
def test_cards_that_say_what_cannot_be(tmp_path: Path, card: Any) -> None:
    """Nothing is allocated for them: the file itself bounds what its network can have."""
    path = write_metadata(tmp_path / "m.safetensors", card)
    with pytest.raises(ModelError) as caught:
        read_card(path)
    assert str(caught.value).startswith(f"{path} has damaged metadata (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", [b"", b"{}", b"[" * 100_000, b'{"__metadata__": 5}', b"\xff" * 50], ids=range(5))
def test_headers_that_are_none(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match=r"m\.safetensors is "):
        read_card(path)


def test_header_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="is no model: it is not a safetensors file"):
        read_card(path)
