"""What is kept between runs belongs to the user alone, and need not be there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from cryoden.system.user_cache import private_cache


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    private_cache.cache_clear()
    yield
    private_cache.cache_clear()


def test_it_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert private_cache("kernels") == tmp_path / "home" / ".cache" / "cryoden" / "kernels"
    assert private_cache("kernels").stat().st_mode & 0o777 == 0o700
    (private_cache("kernels") / "kept").touch()
    private_cache.cache_clear()
    assert (private_cache("kernels") / "kept").exists()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    private_cache.cache_clear()
    assert private_cache("kernels") == tmp_path / "elsewhere" / "cryoden" / "kernels"


def test_a_relative_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert private_cache("kernels") == tmp_path / "home" / ".cache" / "cryoden" / "kernels"


@pytest.mark.parametrize("trouble", ["a file", "no place", "others write", "another's", "read-only"])
def test_where_there_can_be_none_it_ends_with_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: str
) -> None:
    folder = tmp_path / "home" / ".cache" / "cryoden" / "kernels"
    if trouble == "a file":
        folder.parent.mkdir(parents=True)
        folder.touch()
    elif trouble == "no place":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    elif trouble == "others write":
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    elif trouble == "another's":
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    else:
        monkeypatch.setattr(os, "access", lambda *_: False)

    found = private_cache("kernels")
    assert found.is_dir()
    assert found not in (folder, *folder.parents)
    (found / "kept").touch()
    assert private_cache("kernels") == found
