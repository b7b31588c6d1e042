"""What Scipion shows of the plugin: where its page is, and its references in full."""

from __future__ import annotations

import pytest

from cryoden import __version__

pytest.importorskip("pwem", reason="Scipion (scipion-em) is not installed")

import pyworkflow.utils as pwutils

import cryoden_scipion
from cryoden_scipion import Plugin, bibtex, protocols


@pytest.fixture(scope="module")
def references() -> dict:
    """Read them as pyworkflow does."""
    return dict(pwutils.parseBibTex(bibtex.__doc__))


def test_references_are_read_in_full(references: dict) -> None:
    keys = [line.split("{")[1].rstrip(",") for line in str(bibtex.__doc__).splitlines() if line.startswith("@")]
    assert sorted(references) == sorted(keys)
    for entry in references.values():
        assert entry["author"]
        assert entry["title"]
        assert entry.get("journal") or entry.get("booktitle")
        assert entry["year"].isdigit()
        assert entry.get("doi") or entry.get("url")


def test_every_reference_that_is_cited_is_there(references: dict) -> None:
    assert set(cryoden_scipion._references) <= set(references)
    classes = [value for name, value in vars(protocols).items() if name.startswith("CryodenProt")]
    assert len(classes) >= 8
    for one in classes:
        cited = one()._citations()
        assert cited
        assert set(cited) <= set(references), one.__name__


def test_page_and_versions() -> None:
    assert Plugin.getUrl().startswith("https://")
    assert "scipion-em-cryoden" in Plugin.getUrl()  # scipion-em's own page is another
    assert Plugin.getActiveVersion() == __version__
    assert Plugin.getSupportedVersions() == [__version__]
    assert Plugin._processingField == ["SPA"]
