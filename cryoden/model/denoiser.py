"""Denoisers: card, grey scale, pixel size, arithmetic and tiles in one object, whatever it is that denoises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple, Union

import numpy as np
import torch

from cryoden.data.normalize import STANDARD, GreyScale, Normalization, measure_scale, sample_rows
from cryoden.data.rescale import SAME_RATE_TOLERANCE, fourier_resized, rescaled_rate, rescaled_shape
from cryoden.errors import ModelError, OptionError, option_problem
from cryoden.formats.files import PathLike
from cryoden.formats.model_file import ModelCard, read_model
from cryoden.formats.pixels import require_image
from cryoden.model.devices import pick_device
from cryoden.model.networks import build_network
from cryoden.model.predictor import Predictor, load_weights, shape_of
from cryoden.system.progress import Tell, tell_nobody
from cryoden.system.ranks import local_rank

N_VIEWS = {"fast": 1, "best": 8}
"""Rotated and mirrored views that are averaged, for each quality."""


class Denoiser(ABC):
    """Makes a denoised micrograph of a noisy one.

    Attributes
    ----------
    label
        What people call it.
    sampling_rate
        A/px of what it returns; None: that of the image that it is given.
    edge_px
        So far into an image a prediction depends on how the image goes on beyond its edge.
    n_ahead
        Micrographs of which the images are best handed to `denoise_ahead` together.
    normalization
        How it wants images standardised.
    """

    label: str
    sampling_rate: Optional[float] = None
    edge_px: int = 0
    n_ahead: int = 1
    normalization: Normalization = STANDARD

    @staticmethod
    def load(
        path: PathLike,
        device: Union[str, torch.device] = "auto",
        quality: str = "fast",
        precision: str = "auto",
        tile: Optional[int] = None,
    ) -> ModelDenoiser:
        """Read a model file.

        Parameters
        ----------
        path
            Of a network or a linear filter.
        device
            Where it computes: `auto`, `cpu`, `cuda` or `cuda:N`.
        quality
            `fast`, or `best` for the mean of 8 rotated and mirrored views.
        precision
            `auto`, `bfloat16` or `float32`.
        tile
            Side of the tiles in pixels; None: as large as the memory allows.

        Raises
        ------
        FileError
            If the file cannot be read.
        ModelError
            If it is no model, or its weights do not fit what it says to be.
        DeviceError
            If the device is not there.
        OptionError
            If the quality is unknown.
        """
        from cryoden.model.filters import LinearFilter  # a filter is a denoiser too

        card, tensors = read_model(path)
        if card.network in LinearFilter.KINDS:
            return LinearFilter.of_file(card, tensors, str(path), _device(device))
        network = build_network(card.network, card.channels, source=str(path))
        load_weights(network, tensors, str(path))
        if quality not in N_VIEWS:
            raise OptionError([option_problem("quality", f"is {quality!r}; it must be one of {', '.join(N_VIEWS)}.")])
        predictor = Predictor(network, _device(device), tile, N_VIEWS[quality], precision)
        return NetworkDenoiser(card, predictor, str(path))

    @abstractmethod
    def denoise(self, image: np.ndarray, sampling_rate: float, scale: Optional[GreyScale] = None) -> np.ndarray:
        """Return the denoised image in its own grey scale, float32, at the denoiser's pixel size.

        Parameters
        ----------
        image
            `(y, x)`, of any grey scale.
        sampling_rate
            Its A/px.
        scale
            Its grey scale, where that is not to be measured on it (a cut-out, pure noise).

        Raises
        ------
        CryodenError
            If the image cannot be used: constant, coarser than the denoiser's pixels, too large for the memory.
        """

    def denoise_ahead(self, images: Mapping[str, Tuple[np.ndarray, float]]) -> None:  # noqa: B027  most need no notice
        """Take note of images `(pixels, A/px)` by name, which `denoise` will be asked for next.

        A program that takes long to start denoises them now, all in one go; what it made is kept until the next call.

        Raises
        ------
        CryodenError
            If that fails.
        """

    def rate_for(self, sampling_rate: float) -> float:
        """Return the A/px of what it makes of an image that has `sampling_rate`."""
        return self.sampling_rate or sampling_rate

    def close(self) -> None:  # noqa: B027  most have nothing to remove
        """Remove what was written on the way."""

    def measure_scale(self, image: np.ndarray) -> GreyScale:
        """Return the grey scale of an image as the denoiser wants it; raises PixelError."""
        return measure_scale(image, self.normalization)


@dataclass(frozen=True)
class ScaledImage:
    """An image at a denoiser's pixel size, on its device.

    Attributes
    ----------
    pixels
        Float32 `(y, x)`, in the grey scale of the micrograph.
    scale
        That grey scale.
    sampling_rate
        A/px.
    """

    pixels: torch.Tensor
    scale: GreyScale
    sampling_rate: float


class ModelDenoiser(Denoiser):
    """A denoiser that a model file holds.

    Parameters
    ----------
    card
        What the file says of it.
    device
        Where it computes.
    path
        The file; empty where there is none.

    Raises
    ------
    ModelError
        If the model wants a normalisation that is unknown here.
    """

    n_views = 1
    n_weights: int

    def __init__(self, card: ModelCard, device: torch.device, path: str = "") -> None:
        self.card, self.device, self.path = card, device, path
        self.normalization = card_normalization(card, path)
        self.label = card.label
        self.sampling_rate: float = card.sampling_rate

    def denoise(self, image: np.ndarray, sampling_rate: float, scale: Optional[GreyScale] = None) -> np.ndarray:
        """Return the denoised image; see `Denoiser.denoise`."""
        self.require_rate("The image", sampling_rate)
        pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(self.device)
        denoised = self.predict(self.scaled(pixels, sampling_rate, scale))
        self.require_finite("the image", *(float(extreme) for extreme in denoised.aminmax()))
        return denoised.cpu().numpy()

    def require_rate(self, what: str, sampling_rate: float) -> None:
        """Refuse an image, called `what`, whose pixels in A are coarser than the model knows; raises ModelError."""
        coarsest = self.card.rates[1]
        if sampling_rate <= coarsest * (1 + SAME_RATE_TOLERANCE):
            return
        if self.card.is_general:
            raise ModelError(
                f"{what} has {sampling_rate:.4g} Å/px; the general model is for micrographs of up to {coarsest:.4g} "
                "Å/px. Give micrographs that are binned less, or train a model on these.",
                subject=self.path,
            )
        raise ModelError(
            f"{what} has {sampling_rate:.4g} Å/px, coarser than the {self.sampling_rate:.4g} Å/px of the model; "
            "train a model at this or a coarser sampling rate.",
            subject=self.path,
        )

    def rate_for(self, sampling_rate: float) -> float:
        """Return the A/px at which an image is denoised: the model's, or its own where the general model knows it."""
        finest, coarsest = (limit * (1 + SAME_RATE_TOLERANCE) for limit in (self.sampling_rate, self.card.rates[1]))
        return sampling_rate if finest < sampling_rate <= coarsest else self.sampling_rate

    def require_finite(self, what: str, *values: float) -> None:
        """Refuse a prediction of `what` by its extremes: weights that are finite but huge make numbers that are not.

        Raises
        ------
        ModelError
            If one is not finite.
        """
        if not np.isfinite(values).all():
            raise ModelError(
                f"Model {self.path} makes values that are NaN or infinite of {what}; train again, or give another one.",
                subject=self.path,
            )

    def scaled(self, pixels: torch.Tensor, sampling_rate: float, scale: Optional[GreyScale] = None) -> ScaledImage:
        """Return an image of the device, float32 `(y, x)`, at the model's pixel size with its grey scale.

        Raises
        ------
        PixelError
            If it holds no image.
        """
        require_image(*(float(extreme) for extreme in pixels.aminmax()))
        measured = scale or self._measured(pixels)
        shape = rescaled_shape(shape_of(pixels), sampling_rate, self.rate_for(sampling_rate))
        rate = rescaled_rate(shape_of(pixels), sampling_rate, shape)
        if shape != shape_of(pixels):
            # Measured above all the same: saturated pixels are no longer equal at another pixel size.
            pixels = resized(pixels, shape)
            measured = scale or self._measured(pixels)
        return ScaledImage(pixels, measured, rate)

    def predict(self, image: ScaledImage, is_standardised: bool = False, tell: Tell = tell_nobody) -> torch.Tensor:
        """Return the prediction on the device, float32.

        Parameters
        ----------
        image
            What `scaled` returned.
        is_standardised
            Whether grey values stay as the model gives them: background 0, noise of the input 1.
        tell
            Is called with how much is done.

        Raises
        ------
        torch.cuda.OutOfMemoryError, MemoryError, RuntimeError
            If the memory does not suffice, see `is_out_of_memory`.
        """
        prediction = self._apply(image.scale.standardize(image.pixels), image.sampling_rate, tell)
        return prediction if is_standardised else image.scale.restore(prediction)

    @abstractmethod
    def _apply(self, standard: torch.Tensor, sampling_rate: float, tell: Tell) -> torch.Tensor:
        """Return what the model makes of a standardised image `(y, x)` of its pixel size."""

    def _measured(self, pixels: torch.Tensor) -> GreyScale:
        return measure_scale(pixels[:: sample_rows(shape_of(pixels)).step].cpu().numpy(), self.normalization)


class NetworkDenoiser(ModelDenoiser):
    """A trained network.

    Parameters
    ----------
    card
        What its file says of it.
    predictor
        The network, ready to be applied.
    path
        The file.
    """

    def __init__(self, card: ModelCard, predictor: Predictor, path: str = "") -> None:
        super().__init__(card, predictor.device, path)
        self.predictor, self.n_views = predictor, predictor.views
        self.n_weights = sum(weight.numel() for weight in predictor.network.parameters())
        self.edge_px = predictor.network.receptive_radius

    def _apply(self, standard: torch.Tensor, sampling_rate: float, tell: Tell) -> torch.Tensor:
        return self.predictor(standard, tell)


def card_normalization(card: ModelCard, path: str = "") -> Normalization:
    """Return how a model wants its images standardised.

    Raises
    ------
    ModelError
        If it was trained with a normalisation that is unknown here.
    """
    try:
        normalization = Normalization(**card.normalization)
        is_known = normalization.kind in ("standard", "p95") and 0 < normalization.deviation < math.inf
        is_known = is_known and math.isfinite(normalization.mean)
    except TypeError:  # other fields, or no numbers in them
        is_known = False
    if not is_known:
        raise ModelError(
            f"The normalisation {card.normalization} of model {path} is unknown here; update cryoden.", subject=path
        )
    return normalization


def resized(image: torch.Tensor, shape: Tuple[int, int]) -> torch.Tensor:
    """Return an image `(y, x)` with fewer or more pixels over the same area; see `fourier_resized`."""
    return fourier_resized(image, shape, torch.fft.rfft2, torch.fft.irfft2)


def _device(device: Union[str, torch.device]) -> torch.device:
    return pick_device(device, local_rank()) if isinstance(device, str) else device
