from __future__ import annotations

import pytest

from cryoden.errors import NothingDoneError, Problem
from cryoden.wording import counted, counted_of


@pytest.mark.parametrize(("n", "expected"), [(0, "0 patches"), (1, "1 patch"), (2, "2 patches")])
def test_nouns_follow_their_number(n: int, expected: str) -> None:
    assert counted(n, "patch", "patches") == expected
    assert counted(n, "movie") == expected.replace("patches", "movies").replace("patch", "movie")


@pytest.mark.parametrize(
    ("n", "total", "expected"),
    [(0, 1, "0 of 1 movie are"), (1, 1, "1 of 1 movie is"), (1, 2, "1 of 2 movies is"), (2, 2, "2 of 2 movies are")],
)
def test_verbs_follow_what_is_counted(n: int, total: int, expected: str) -> None:
    assert counted_of(n, total, "movie") == expected


def test_nothing_done_is_said_of_one_and_of_several() -> None:
    failures = {"a.mrc": Problem("file", "a.mrc is truncated.")}
    assert (
        str(NothingDoneError("movie", "split", 1, failures)) == "The only movie could not be split: a.mrc is truncated."
    )
    several = "None of 2 movies could be split; the first reason: a.mrc is truncated."
    assert str(NothingDoneError("movie", "split", 2, failures)) == several
