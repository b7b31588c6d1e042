"""Numbers and the words that go with them: 1 micrograph, but 3 micrographs; standard library only."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun, such as `1 micrograph` or `3 micrographs`.

    Parameters
    ----------
    n
        How many, at least 0.
    noun
        In the singular.
    plural
        Where it is not the noun with an `s`.
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def counted_of(n: int, total: int, noun: str) -> str:
    """Return how many of all do something, with the verb, such as `1 of 3 movies is` or `2 of 3 movies are`."""
    return f"{n} of {counted(total, noun)} {'is' if n == 1 else 'are'}"
