"""The clean images of micrographs, where they are known."""

from __future__ import annotations

from typing import Mapping

import numpy as np

from cryoden.data.pairs import HalfPair
from cryoden.data.rescale import SAME_RATE_TOLERANCE, fourier_crop
from cryoden.errors import PairError
from cryoden.formats.images import read_micrograph


def read_truth(pair: HalfPair, truths: Mapping[str, str], source: str) -> np.ndarray:
    """Return the clean image of a micrograph at the working sampling rate, float32.

    Parameters
    ----------
    pair
        Its halves.
    truths
        Micrograph name -> file.
    source
        Where these were looked for.

    Raises
    ------
    CryodenError
        If there is none, it cannot be read, or it has another size or sampling rate than the halves.
    """
    if pair.name not in truths:
        raise PairError(
            f"'{pair.name}' has no truth in {source}; give the clean image of every micrograph.", subject=pair.name
        )

    image, rate = read_micrograph(truths[pair.name])
    if image.shape != pair.file_shape:
        sizes = [f"{shape[1]} x {shape[0]} px" for shape in (image.shape, pair.file_shape)]
        raise PairError(
            f"The truth of '{pair.name}' is {sizes[0]} but its halves are {sizes[1]}; both must show the same area "
            "with the same pixels. Write the truth in the halves' size.",
            subject=pair.name,
        )
    if rate and abs(rate / pair.file_rate - 1) > SAME_RATE_TOLERANCE:
        raise PairError(
            f"The truth of '{pair.name}' has {rate:g} Å/px but its halves have {pair.file_rate:g} Å/px; both must be "
            "the same. Mend the header, or give the right truth.",
            subject=pair.name,
        )
    return fourier_crop(image, pair.shape)
