"""The shipped workflow template with real programs: RELION corrects motion, picks on denoised micrographs, extracts."""

import os
import shutil
import subprocess

from pyworkflow.tests import BaseTest, setupTestProject

from cryoden_scipion import Plugin
from cryoden_scipion.protocols.protocol_train import NETWORKS
from cryoden_scipion.tests import downstream

RATE, WORKING_RATE = 2.0, 8.0


class TestCryodenDownstream(BaseTest):
    """Movies in; picks and particles out."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)

    def testTemplateIsFoundAndRuns(self):
        """Every particle is cut from its original micrograph, where it was picked; nearly all are found."""
        template = downstream.findTemplate()
        self.assertIn("Denoised picking", template.description)
        if shutil.which("relion_autopick") is None:
            self.skipTest("RELION (relion_autopick) is not installed")
        try:
            import relion  # noqa: F401
        except ImportError:
            self.skipTest("scipion-em-relion is not installed")
        folder = os.path.abspath(self.proj.getTmpPath("simulated"))
        options = "--movies 3 --size 768 768 --frames 6 --dose-per-frame 3 --particles 24 --drift 6 --seed 5"
        subprocess.run(
            f"{Plugin.getProgram()} simulate movies --output {folder} --sampling-rate {RATE} {options}",
            shell=True,
            check=True,
            env=Plugin.getEnviron(),
        )
        values = {
            "movies": os.path.join(folder, "movies"), "gain": os.path.join(folder, "gain.mrc"), "rate": str(RATE),
            "dose": "3.0", "workingrate": str(WORKING_RATE), "mindiameter": "150", "maxdiameter": "190",
            "pickbox": "32", "box": "96",
        }  # fmt: skip
        quick = {
            "network": NETWORKS.index("cnn3"), "epochs": 3, "crop": 64, "min_batches": 20, "lr": 0.005, "useGpu": False,
        }  # fmt: skip
        steps = downstream.openTemplate(self.proj, values, {"train": quick, "denoise": {"useGpu": False}})
        steps = downstream.runSteps(self.proj, steps)
        truth = downstream.readTruth(folder)
        places = downstream.placesOf(steps["pick"].outputCoordinates)
        recall, precision, _ = downstream.recallAndPrecision(truth, places)
        self.assertGreater(recall, 0.8)
        self.assertGreater(precision, 0.6)
        originals = steps["motion"].outputMicrographsDoseWeighted
        n, largest = downstream.checkParticles(steps["extract"].outputParticles, originals, places)
        self.assertGreater(n, 0.8 * sum(len(centres) for centres, _ in truth.values()))
        self.assertLessEqual(largest, WORKING_RATE)
        self.assertAlmostEqual(steps["extract"].outputParticles.getSamplingRate(), RATE)
