"""Data objects of the plugin."""

from __future__ import annotations

from typing import Any, Optional

from pwem.objects import EMObject
from pyworkflow.object import Float, Integer, String

from cryoden.formats.model_file import LABELS, ModelCard
from cryoden.wording import counted


class CryodenModel(EMObject):
    """A trained denoiser: a safetensors file and what is worth knowing about it at a glance."""

    def __init__(self, filename: Optional[str] = None, **kwargs: Any) -> None:
        EMObject.__init__(self, **kwargs)
        self._filename = String(filename)
        self._network = String()
        self._label = String()
        self._samplingRate = Float()
        self._r2 = Float()
        self._nPairs = Integer()

    def setFromCard(self, card: ModelCard) -> None:
        """Copy network, sampling rate, R2 and number of pairs."""
        self._network.set(card.network)
        self._label.set(card.label)
        self._samplingRate.set(card.sampling_rate)
        self._r2.set(card.r2)
        self._nPairs.set(card.training.get("n_pairs"))

    def getFileName(self) -> str:
        """Return the path of model.safetensors, relative to the project."""
        return self._filename.get()

    def getNetwork(self) -> str:
        """Return `unet` or `cnn3`."""
        return self._network.get()

    def getNetworkLabel(self) -> str:
        """Return what people call the network, such as U-Net."""
        return self._label.get() or LABELS.get(self.getNetwork(), self.getNetwork())  # runs of 0.1 know no label

    def getSamplingRate(self) -> float:
        """Return the pixel size in Å/px at which the model works."""
        return self._samplingRate.get()

    def getR2(self) -> Optional[float]:
        """Return the explained signal on held-out micrographs, 300-8 Å."""
        return self._r2.get()

    def getDescription(self) -> str:
        """Return what it is in a few words: network, pixel size, number of pairs and R2, as far as they are known."""
        parts = [self.getNetworkLabel(), f"{self.getSamplingRate():.2f} Å/px"]
        if self.getR2() is not None:
            parts.insert(1, f"R2 = {self.getR2():.3f}")
        if self._nPairs.get():
            parts.append(f"trained on {counted(self._nPairs.get(), 'pair')} of halves")
        return ", ".join(parts)

    def __str__(self) -> str:
        return self.getDescription() if self.getNetwork() else "Denoiser"
