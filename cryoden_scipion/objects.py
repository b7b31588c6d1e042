"""Data objects of the plugin."""

from __future__ import annotations

from typing import Any, Optional

from pwem.objects import EMObject
from pyworkflow.object import Float, Integer, String

from cryoden.formats.model_file import ModelCard


class CryodenModel(EMObject):
    """A trained denoiser: a safetensors file and what is worth knowing about it at a glance."""

    def __init__(self, filename: Optional[str] = None, **kwargs: Any) -> None:
        EMObject.__init__(self, **kwargs)
        self._filename = String(filename)
        self._network = String()
        self._samplingRate = Float()
        self._r2 = Float()
        self._nPairs = Integer()

    def setFromCard(self, card: ModelCard) -> None:
        """Copy network, sampling rate, R2 and number of pairs."""
        self._network.set(card.network)
        self._samplingRate.set(card.sampling_rate)
        self._r2.set(card.r2)
        self._nPairs.set(card.training.get("n_pairs"))

    def getFileName(self) -> str:
        """Return the path of model.safetensors, relative to the project."""
        return self._filename.get()

    def getNetwork(self) -> str:
        """Return `unet` or `cnn3`."""
        return self._network.get()

    def getSamplingRate(self) -> float:
        """Return the pixel size in A/px at which the model works."""
        return self._samplingRate.get()

    def getR2(self) -> Optional[float]:
        """Return the explained signal on held-out micrographs, 300-8 A."""
        return self._r2.get()

    def __str__(self) -> str:
        return (
            f"CryodenModel ({self.getNetwork()}, {self.getSamplingRate() or 0:.2f} A/px, R2 = {self.getR2() or 0:.3f})"
        )
