"""By which rule the best of several denoisers is found: R2, and among equally good ones how simple they are."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence, Tuple

import numpy as np


def elect(r2: Mapping[str, Optional[float]], order: Sequence[str], margin: float) -> Optional[Tuple[str, str]]:
    """Return which candidate is elected and which has the highest R2; None where none has a number.

    Parameters
    ----------
    r2
        Of each candidate, on the same pixels; None or NaN where it is no number.
    order
        The candidates, the simplest first.
    margin
        Those whose R2 is less than this below the highest are equally good: the simplest of them is elected.
    """
    known = {key: value for key in order for value in [r2.get(key)] if value is not None and np.isfinite(value)}
    if not known:
        return None
    best = max(known, key=lambda key: known[key])
    return next(key for key in known if key == best or known[best] - known[key] < margin), best


def paired_error(first: Sequence[Optional[float]], second: Sequence[Optional[float]]) -> Optional[float]:
    """Return the standard error of the mean difference of numbers of the same micrographs; None of fewer than two."""
    differences = [a - b for a, b in zip(first, second) if a is not None and b is not None]
    if len(differences) < 2:
        return None
    return float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
