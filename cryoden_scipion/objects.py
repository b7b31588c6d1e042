"""Data objects of the plugin."""

from pwem.objects import EMObject
from pyworkflow.object import Float, Integer, String


class CryodenModel(EMObject):
    """A trained denoiser: a safetensors file and what is worth knowing about it at a glance."""

    def __init__(self, filename=None, **kwargs):
        EMObject.__init__(self, **kwargs)
        self._filename = String(filename)
        self._network = String()
        self._samplingRate = Float()
        self._r2 = Float()
        self._nPairs = Integer()

    def setFromCard(self, card):
        """Copy network, sampling rate, R2 and number of pairs from a `cryoden.formats.model_file.ModelCard`."""
        self._network.set(card.network)
        self._samplingRate.set(card.sampling_rate)
        self._r2.set(card.r2)
        self._nPairs.set(card.training.get("n_pairs"))

    def getFileName(self):
        """Return the path of model.safetensors, relative to the project."""
        return self._filename.get()

    def getNetwork(self):
        """Return `unet` or `cnn3`."""
        return self._network.get()

    def getSamplingRate(self):
        """Return the pixel size in A/px at which the model works."""
        return self._samplingRate.get()

    def getR2(self):
        """Return the explained signal on held-out micrographs, 300-8 A."""
        return self._r2.get()

    def __str__(self):
        return (
            f"CryodenModel ({self.getNetwork()}, {self.getSamplingRate() or 0:.2f} A/px, R2 = {self.getR2() or 0:.3f})"
        )
