"""Trained models among the denoisers of an evaluation: what they make of halves, and of noise alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from cryoden.config import NETWORKS, EvaluateConfig
from cryoden.data.normalize import GreyScale
from cryoden.data.pairs import HalfPair
from cryoden.data.rescale import SAME_RATE_TOLERANCE, rescaled_shape
from cryoden.errors import ModelError, PixelError
from cryoden.evaluation.candidates import Candidate
from cryoden.metrics.measurement import NOISE_SIDE
from cryoden.metrics.psnr_ssim import centre
from cryoden.model.denoiser import LABELS, ModelDenoiser

NoiseResponse = Tuple[np.ndarray, np.ndarray, float]
"""f((a - b) / sqrt(2)) and f(a) on one cut-out, in the units of the odd half, and their A/px."""


class Contender:
    """A trained model among the denoisers of an evaluation.

    Parameters
    ----------
    denoiser
        What its file holds.
    """

    def __init__(self, denoiser: ModelDenoiser) -> None:
        self.denoiser, self.card, self.path = denoiser, denoiser.card, denoiser.path

    def region(self, name: str) -> Optional[Tuple[float, float]]:
        """Return the rows of a micrograph that the model was not trained on, as shares of its height; None: no row."""
        held_out = self.card.training.get("held_out", {})
        if name in held_out:
            return float(held_out[name][0]), float(held_out[name][1])
        return None if name in self.card.training.get("trained_on", ()) else (0.0, 1.0)

    def shape_of(self, pair: HalfPair) -> Tuple[int, int]:
        """Return rows and columns of a micrograph at the model's sampling rate."""
        return rescaled_shape(pair.file_shape, pair.file_rate, self.card.sampling_rate)

    def denoise(self, pair: HalfPair, halves: Sequence[np.ndarray]) -> Tuple[List[np.ndarray], NoiseResponse]:
        """Denoise both halves of a micrograph, and a cut-out of their noise.

        Parameters
        ----------
        pair
            Where the halves come from.
        halves
            Odd and even, of the shape of `shape_of`.

        Returns
        -------
        denoised
            Odd and even, in the units of the halves.
        response
            What the model makes of noise alone.

        Raises
        ------
        PixelError
            If a half cannot be scaled as the model wants it.
        """
        try:
            scales = [self.denoiser.measure_scale(half) for half in halves]
        except PixelError as error:
            raise PixelError(f"'{pair.name}' cannot be given to {self.path}: {error}") from error
        rate = pair.file_rate * pair.file_shape[1] / halves[0].shape[1]
        denoised = [self.denoiser.denoise(half, rate, scale) for half, scale in zip(halves, scales)]
        return denoised, self._noise_response(halves, rate, scales[0], denoised[0])

    def _noise_response(
        self, halves: Sequence[np.ndarray], rate: float, scale: GreyScale, denoised: np.ndarray
    ) -> NoiseResponse:
        side = min(NOISE_SIDE, *halves[0].shape)
        cuts = [centre(half, side) for half in halves]
        noise = (cuts[0] - cuts[1]) / np.float32(np.sqrt(2))
        noise += np.float32(cuts[0].mean() - noise.mean())
        # Near the edges of a cut-out the prediction is another one: they are not compared.
        inner = side - 2 * min(self.denoiser.edge_px, side // 4)
        return centre(self.denoiser.denoise(noise, rate, scale), inner), centre(denoised, inner), rate

    def facts(self) -> Dict[str, Any]:
        """Return what the report says of the model beside its quality, as JSON types."""
        training = self.card.training
        return {
            "path": self.path,
            "network": self.card.network,
            "sampling_rate": self.card.sampling_rate,
            "n_weights": self.denoiser.n_weights,
            "channels": list(self.card.channels),
            "epoch": training.get("epoch"),
            "seconds": training.get("seconds"),
        }


def unseen_rows(networks: Sequence[Contender], name: str) -> Optional[Tuple[float, float]]:
    """Return the rows of a micrograph that no network was trained on, as shares of its height; None: no row."""
    regions = [network.region(name) for network in networks]
    known = [region for region in regions if region is not None]
    if len(known) < len(regions):
        return None
    return max([0.0, *(region[0] for region in known)]), min([1.0, *(region[1] for region in known)])


def working_rate(networks: Sequence[Contender], config: EvaluateConfig) -> Optional[float]:
    """Return the sampling rate in A/px at which images are compared; None: that of the files.

    Raises
    ------
    ModelError
        If the options ask for a finer one than a network works at.
    """
    if not networks:
        return config.sampling_rate
    coarsest = max(networks, key=lambda network: network.card.sampling_rate)
    rate = coarsest.card.sampling_rate
    if config.sampling_rate and config.sampling_rate * (1 + SAME_RATE_TOLERANCE) < rate:
        raise ModelError(
            f"{coarsest.path} works at {rate:.4g} A/px, coarser than the {config.sampling_rate:.4g} A/px of "
            "--sampling-rate; compare at its sampling rate or a coarser one."
        )
    return config.sampling_rate or rate


def network_candidates(networks: Sequence[Contender]) -> List[Candidate]:
    """Return a row of the table for each network; those of one kind are told apart by their files."""
    kinds, paths = [network.card.network for network in networks], [network.path for network in networks]
    rows = []
    for number, network in enumerate(networks):
        label = network.denoiser.label
        if kinds.count(network.card.network) > 1:
            label += f" ({_distinct_name(network.path, paths)})"
        note = f"{network.card.sampling_rate:.3g} A/px, {network.path}"
        rows.append(Candidate(f"model{number + 1}", label, "network", note))
    return rows


def absent_networks(networks: Sequence[Contender]) -> List[Candidate]:
    """Return a row for each kind of network that was not given."""
    kinds = {network.card.network for network in networks}
    return [
        Candidate(kind, label, "network", f"not given; train one with --network {kind} and name it with --model")
        for kind, label in ((kind, LABELS[kind]) for kind in NETWORKS)
        if kind not in kinds
    ]


def silent_networks(networks: Sequence[Contender]) -> List[str]:
    """Return a warning for each network that does not say what it was trained on."""
    return [
        f"{network.path} does not say which micrographs it was trained on; if some of these are among them, the "
        "numbers flatter it."
        for network in networks
        if "trained_on" not in network.card.training
    ]


def _distinct_name(path: str, others: Sequence[str]) -> str:
    """Return the shortest end of a path, without its ending, that tells it from the others; its folder if that does."""
    parents = [Path(other).parent.name for other in others]
    return Path(path).parent.name if len(set(parents)) == len(parents) else str(Path(path).with_suffix(""))
