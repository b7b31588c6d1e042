"""Linear filters as denoisers: fitted on halves, kept as model files, applied like networks."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar, Dict, Iterable, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np
import torch

from cryoden.config import SCORE_BAND_A
from cryoden.data.normalize import STANDARD
from cryoden.data.pair_reader import load_pair
from cryoden.data.pairs import HalfPair
from cryoden.errors import ModelError
from cryoden.formats.files import PathLike
from cryoden.formats.model_file import ModelCard, write_model
from cryoden.metrics.linear_filters import best_gaussian_width, filter_gain, gaussian_transfer, wiener_transfer
from cryoden.metrics.ring_covariance import A, B, RingCovariance, pool, ring_covariance
from cryoden.model.denoiser import ModelDenoiser
from cryoden.model.predictor import shape_of
from cryoden.system.progress import Tell

Filter = TypeVar("Filter", bound="LinearFilter")

CPU = torch.device("cpu")


class LinearFilter(ModelDenoiser):
    """A filter given by its gain at each spatial frequency.

    Parameters
    ----------
    card
        Kind, sampling rate, and what it was fitted on.
    frequency
        Rising, in 1/A.
    gain
        At these frequencies; interpolated between them, 0 beyond the last.
    device
        Where it computes.
    path
        Its file; empty where there is none.
    """

    KIND: ClassVar[str] = ""
    """What its cards name as the network."""

    KINDS: ClassVar[Dict[str, Type[LinearFilter]]] = {}
    """Every kind of filter by its name."""

    def __init__(
        self, card: ModelCard, frequency: np.ndarray, gain: np.ndarray, device: torch.device = CPU, path: str = ""
    ) -> None:
        super().__init__(card, device, path)
        self.frequency, self.gain = frequency, gain
        self.n_weights = len(gain)
        self._plane: Optional[Tuple[Tuple[int, int], float, torch.Tensor]] = None

    def __init_subclass__(cls, **words: Any) -> None:
        super().__init_subclass__(**words)
        LinearFilter.KINDS[cls.KIND] = cls

    @classmethod
    def fit(cls: Type[Filter], pairs: Iterable[HalfPair], band_A: Tuple[float, float] = SCORE_BAND_A) -> Filter:
        """Return the filter that suits micrographs best of which both halves are known.

        Parameters
        ----------
        pairs
            Of `cryoden.data.pairs.find_pairs`; read one after the other.
        band_A
            Longest and shortest period in A that count.

        Raises
        ------
        CryodenError
            If a half cannot be used.
        """
        covariances, names = [], []
        for pair in pairs:
            halves = load_pair(pair).halves.float().numpy()
            covariances.append(ring_covariance(list(halves), pair.sampling_rate))
            names.append(pair.name)
            rate = pair.sampling_rate
        return cls.fit_covariance(pool(covariances), rate, band_A, names)

    @classmethod
    def fit_covariance(
        cls: Type[Filter],
        training: RingCovariance,
        sampling_rate: float,
        band_A: Tuple[float, float] = SCORE_BAND_A,
        names: Sequence[str] = (),
    ) -> Filter:
        """Return the filter that suits micrographs best of which the covariances per ring are known.

        Parameters
        ----------
        training
            Of the standardised halves, pooled over micrographs.
        sampling_rate
            A/px of the halves, and of what the filter will return.
        band_A
            Longest and shortest period in A that count.
        names
            Of the micrographs.
        """
        frequency = training.frequency[np.isfinite(training.frequency)]
        gain, facts = cls._fitted(training.of(A, B, A, B), frequency, band_A)
        summary = {**facts, "score_band_A": list(band_A), "n_pairs": len(names), "trained_on": list(names)}
        return cls(ModelCard(cls.KIND, (), sampling_rate, asdict(STANDARD), summary), frequency, gain)

    @classmethod
    @abstractmethod
    def _fitted(
        cls, training: RingCovariance, frequency: np.ndarray, band_A: Tuple[float, float]
    ) -> Tuple[np.ndarray, Dict[str, Any]]:
        """Return the gain at frequencies in 1/A, and what the card says of it."""

    @staticmethod
    def of_file(card: ModelCard, tensors: Dict[str, np.ndarray], path: str, device: torch.device) -> LinearFilter:
        """Return the filter of a model file.

        Raises
        ------
        ModelError
            If its tensors are no transfer curve.
        """
        frequency, gain = (tensors.get(name, np.empty(0)).astype(np.float64) for name in ("frequency", "gain"))
        is_curve = frequency.ndim == 1 and frequency.shape == gain.shape and len(frequency) > 1
        if not is_curve or not np.isfinite([frequency, gain]).all() or not (np.diff(frequency) > 0).all():
            raise ModelError(
                f"{path} is a {card.network} filter without a transfer curve: 'frequency' must rise, and 'gain' hold a "
                "number for each. Fit it again.",
                subject=path,
            )
        return LinearFilter.KINDS[card.network](card, frequency, gain, device, path)

    def save(self, path: PathLike) -> None:
        """Write a model file that `cryoden denoise` applies; raises as `write_model`."""
        write_model(path, {"frequency": self.frequency, "gain": self.gain}, self.card)

    def gain_at(self, frequency: np.ndarray) -> np.ndarray:
        """Return the gain at frequencies in 1/A; infinite ones are beyond the last."""
        return np.interp(frequency, self.frequency, self.gain, right=0.0)

    def _apply(self, standard: torch.Tensor, sampling_rate: float, tell: Tell) -> torch.Tensor:
        shape = shape_of(standard)
        if self._plane is None or self._plane[:2] != (shape, sampling_rate):  # most micrographs are of one size
            gain = filter_gain(shape, sampling_rate, self.frequency, self.gain).astype(np.float32)
            self._plane = shape, sampling_rate, torch.from_numpy(gain).to(standard.device)
        return torch.fft.irfft2(torch.fft.rfft2(standard) * self._plane[2], s=shape)


class GaussianFilter(LinearFilter):
    """A Gaussian blur, of the width that gives the highest R2_corr."""

    KIND = "gaussian"

    @classmethod
    def _fitted(
        cls, training: RingCovariance, frequency: np.ndarray, band_A: Tuple[float, float]
    ) -> Tuple[np.ndarray, Dict[str, Any]]:
        width = best_gaussian_width(training, band_A)
        return gaussian_transfer(frequency, width), {"width_A": width}


class WienerFilter(LinearFilter):
    """The ring-wise Wiener filter: in each ring the share of the power that is signal."""

    KIND = "wiener"

    @classmethod
    def _fitted(
        cls, training: RingCovariance, frequency: np.ndarray, band_A: Tuple[float, float]
    ) -> Tuple[np.ndarray, Dict[str, Any]]:
        return wiener_transfer(training, frequency), {}
