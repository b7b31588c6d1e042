"""Denoising while micrographs come, after a kill and a stop; from halves; with CTFs; what is refused or warned of."""

import json
import os
import shutil
import subprocess
import sys

import mrcfile
import numpy as np
import psutil
import scipy.ndimage
from pwem.objects import CTFModel, Micrograph, SetOfCTF, SetOfMicrographs
from pyworkflow.object import CsvList, Set

from cryoden.errors import NothingDoneError
from cryoden.formats.outcome import read_ending
from cryoden.formats.star import read_table
from cryoden_scipion.convert import currentSize, filesById, firstItem, loadItems
from cryoden_scipion.protocols import CryodenProtImportModel
from cryoden_scipion.protocols.protocol_base import OPTIONS_FILE
from cryoden_scipion.protocols.protocol_denoise import LINKED_HALVES, TWO_SETS
from cryoden_scipion.protocols.streaming import IDLE_MINUTES
from cryoden_scipion.tests.denoising import SAMPLING_RATE, SHAPE, CryodenDenoiseTest, noise, writeImage


def unfinishedFile(path):
    """Return under which name a process that was killed while it wrote a file leaves it."""
    code = f"from cryoden.formats.files import whole_file\nwith whole_file({path!r}) as temporary: print(temporary)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip()


class TestCryodenDenoiseStreaming(CryodenDenoiseTest):
    """An open set of micrographs that grows while it is denoised."""

    def more(self, micrographs, numbers):
        """Write micrographs beside those of a set and return them as items."""
        first = firstItem(micrographs)
        items = []
        for number in numbers:
            item = first.clone()
            item.setObjId(number)
            item.setFileName(first.getFileName().replace("_1.mrc", f"_{number}.mrc"))
            item.setMicName(first.getMicName().replace("_1.mrc", f"_{number}.mrc"))
            writeImage(item.getFileName(), noise(number, shape=first.getDim()[1::-1]))
            items.append(item)
        return items

    def testMicrographsAreDenoisedAsTheyCome(self):
        """The output is there and open while the input is open; batches wait until they are full or the end comes.

        One process denoises all of them, and is gone at the end.
        """
        micrographs = self.openAgain(self.importMicrographs("grow", 2))
        protocol = self.denoise(micrographs, streamingBatchSize=2)
        self.assertTrue(protocol.worksInStreaming())
        self.proj.launchProtocol(protocol, wait=False)
        self.waitUntil(lambda: len(self.outputOf(protocol)[0]) == 2)
        self.assertTrue(self.outputOf(protocol)[1])
        first = self.roundOf(protocol)
        self.assertIn("Denoised: *2* of 2 micrographs, at 3.00 Å/px, more may come.", self.stored(protocol).summary())
        third, fourth, fifth = self.more(micrographs, (3, 4, 5))
        self.append(micrographs, [third], Set.STREAM_OPEN)
        self.waitUntil(lambda: "Waiting for more input: 3 so far" in self.logOf(protocol))
        self.assertEqual(len(self.outputOf(protocol)[0]), 2)
        self.append(micrographs, [fourth], Set.STREAM_OPEN)
        self.waitUntil(lambda: len(self.outputOf(protocol)[0]) == 4)
        self.append(micrographs, [fifth], Set.STREAM_CLOSED)
        self.waitUntil(lambda: self.stored(protocol).isFinished())
        self.checkOutput(protocol, 5)
        self.assertTrue(any("micrographs per minute" in line for line in self.stored(protocol).summary()))
        last = self.roundOf(protocol)
        self.assertEqual((first.number, last.number, last.process), (1, 3, first.process))
        self.waitUntil(lambda: not psutil.pid_exists(last.process))
        with open(protocol._getExtraPath(OPTIONS_FILE)) as file:
            self.assertEqual(json.load(file)["watch"], IDLE_MINUTES)

    def testKilledInTheMiddleAndContinued(self):
        """Killed -9 at work, continued with a micrograph more: nothing is lost, repeated or left half-written."""
        n = 8
        micrographs = self.openAgain(self.importMicrographs("kill", n, shape=(512, 768)))
        protocol = self.denoise(micrographs, quality=1, tile=512)
        self.proj.launchProtocol(protocol, wait=False)
        extra = protocol._getExtraPath()
        self.waitUntil(lambda: sum(name.endswith(".mrc") for name in os.listdir(extra)) >= 2)
        self.killEverything(protocol)
        done = [name for name in os.listdir(extra) if name.endswith(".mrc")]
        self.assertLess(len(done), n)
        times = {name: os.stat(os.path.join(extra, name)).st_mtime_ns for name in done}
        with open(unfinishedFile(os.path.join(extra, "kill_9.mrc")), "wb") as file:
            file.write(b"half")
        self.append(micrographs, self.more(micrographs, [n + 1]), Set.STREAM_CLOSED)
        protocol = self.continueRun(protocol)
        self.checkOutput(protocol, n + 1)
        self.assertEqual({name: os.stat(os.path.join(extra, name)).st_mtime_ns for name in done}, times)

    def testStoppedAndContinued(self):
        """Scipion closes the output of a stopped run; Continue opens it again before anything new is there."""
        micrographs = self.openAgain(self.importMicrographs("stop", 2))
        protocol = self.denoise(micrographs)
        self.proj.launchProtocol(protocol, wait=False)
        self.waitUntil(lambda: len(self.outputOf(protocol)[0]) == 2)
        self.proj.stopProtocol(self.stored(protocol))
        self.waitUntil(lambda: not self.processesOf(protocol))
        closed = self.stored(protocol).outputMicrographs
        closed.setStreamState(Set.STREAM_CLOSED)
        closed.write()
        closed.close()
        protocol = self.stored(protocol)
        protocol.runMode.set(1)
        self.proj.launchProtocol(protocol, wait=False)
        self.waitUntil(lambda: self.outputOf(protocol)[1])
        self.append(micrographs, self.more(micrographs, [3]), Set.STREAM_CLOSED)
        self.waitUntil(lambda: self.stored(protocol).isFinished())
        self.checkOutput(protocol, 3)

    def testDamagedMicrographsDoNotEndAnOpenRun(self):
        """While more may come, a set of which nothing can be denoised yet is waited for; what is wrong is named."""
        micrographs = self.openAgain(self.importMicrographs("bad", 1))
        path = os.path.realpath(firstItem(micrographs).getFileName())
        with open(path, "r+b") as file:
            file.truncate(2000)
        protocol = self.denoise(micrographs)
        self.proj.launchProtocol(protocol, wait=False)
        self.waitUntil(lambda: os.path.exists(protocol._outcomeFile()))
        self.assertTrue(read_ending(protocol._outcomeFile()).has(NothingDoneError.kind))
        items = self.more(micrographs, [2, 3])
        writeImage(items[1].getFileName(), noise(3, shape=(80, 90)))
        self.append(micrographs, items, Set.STREAM_CLOSED)
        self.waitUntil(lambda: self.stored(protocol).isFinished())
        self.assertEqual([objId for objId, _ in self.outputOf(protocol)[0]], [2, 3])
        summary = "\n".join(self.stored(protocol).summary())
        self.assertIn("Denoised: *2* of 3 micrographs", summary)
        self.assertIn("*Left out: 1*", summary)
        self.assertIn("bad_1.mrc", summary)
        warning = next(line for line in summary.splitlines() if line.startswith("*Warning:*"))
        self.assertIn("bad_3.mrc", warning)


class TestCryodenDenoiseInput(CryodenDenoiseTest):
    """Halves, CTFs, and what is refused or warned of."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.micrographs = cls.importMicrographs("mic", 3)
        cls.odd, cls.even = (cls.importMicrographs("mic", 3, half) for half in (0, 1))

    def keep(self, name, images):
        """Store a set that the test made in the project, so that a protocol can be given it."""
        images.write()
        setattr(self.owner, name, images)
        self.proj.mapper.store(self.owner)
        self.proj.mapper.commit()
        images.close()
        return images

    def testHalvesOfTwoSets(self):
        """The mean of both denoised halves; halves are matched by name, micrographs without halves are named."""
        odd = self.odd.create(self.proj.getTmpPath(), prefix="shuffled")
        odd.copyInfo(self.odd)
        for number, mic in enumerate(sorted((mic.clone() for mic in self.odd), key=lambda mic: -mic.getObjId())[1:], 1):
            mic.setObjId(number)  # another order, other ids, and one is missing
            odd.append(mic)
        self.keep("shuffled", odd)
        protocol = self.launchDenoise(
            self.micrographs, predictFrom=TWO_SETS, inputMicrographsOdd=odd, inputMicrographsEven=self.even
        )
        files, _ = self.outputOf(protocol)
        self.assertEqual([objId for objId, _ in files], [1, 2])
        for objId, path in files:
            halves = [scipy.ndimage.uniform_filter(noise(objId, half).astype(np.float64), 3) for half in (0, 1)]
            np.testing.assert_allclose(mrcfile.read(path)[1:-1, 1:-1], np.mean(halves, axis=0)[1:-1, 1:-1], rtol=1e-4)
        (problem,) = protocol._failures().values()
        self.assertIn("mic_3", problem.message)
        self.assertIn(f"  {problem.text(protocol._words)}", protocol.summary())

    def testFileOfASetInTheMakingIsAnOpenSet(self):
        """A protocol makes the file, then its tables: who looks in between sees nothing yet, and that more comes."""
        path = self.proj.getTmpPath("making.sqlite")
        open(path, "w").close()
        made = SetOfMicrographs(filename=path)
        self.assertEqual(loadItems(path), ([], False))
        self.assertEqual((firstItem(made), currentSize(made), filesById(made)), (None, 0, {}))

    def testMicrographsWaitForTheirHalves(self):
        """While a set of halves is open, only micrographs with both halves are taken, and more may come."""
        odd = self.odd.create(self.proj.getTmpPath(), prefix="growing")
        odd.copyInfo(self.odd)
        odd.append(firstItem(self.odd))
        odd.setStreamState(Set.STREAM_OPEN)
        self.keep("growing", odd)
        protocol = self.denoise(
            self.micrographs, predictFrom=TWO_SETS, inputMicrographsOdd=odd, inputMicrographsEven=self.even
        )
        items, isComplete = protocol._loadInput()
        self.assertEqual(([item.getMicName() for item in items], isComplete), (["mic_1.mrc"], False))
        self.append(odd, [], Set.STREAM_CLOSED)
        items, isComplete = protocol._loadInput()
        self.assertEqual((len(items), isComplete), (3, True))

    def testLinkedHalvesGiveTheSame(self):
        """The halves that a full micrograph links are used as two sets are."""
        linked = self.micrographs.create(self.proj.getTmpPath(), prefix="linked")
        linked.copyInfo(self.micrographs)
        halves = [{mic.getMicName(): mic.getFileName() for mic in half} for half in (self.odd, self.even)]
        for micrograph in [mic.clone() for mic in self.micrographs]:
            micrograph._mcEvenOddMics = CsvList()
            micrograph._mcEvenOddMics.set(",".join(files[micrograph.getMicName()] for files in halves))
            linked.append(micrograph)
        self.keep("linked", linked)
        ofLinks = self.launchDenoise(linked, predictFrom=LINKED_HALVES)
        ofSets = self.launchDenoise(
            self.micrographs, predictFrom=TWO_SETS, inputMicrographsOdd=self.odd, inputMicrographsEven=self.even
        )
        for (_, one), (_, other) in zip(self.outputOf(ofLinks)[0], self.outputOf(ofSets)[0]):
            np.testing.assert_array_equal(mrcfile.read(one), mrcfile.read(other))
        self.assertEqual(len(self.outputOf(ofLinks)[0]), 3)

    def testCtfsBecomeColumns(self):
        """Matched by name; a micrograph without CTF is denoised but not listed for RELION."""
        ctfs = self.makeCtfs("ctfs", {"mic_2.mrc": 21000.0, "mic_1.mrc": 12000.0})
        protocol = self.launchDenoise(self.micrographs, inputCTF=ctfs)
        self.assertEqual(len(self.outputOf(protocol)[0]), 3)
        table = read_table(protocol._getExtraPath("micrographs.star"))
        values = dict(zip((os.path.basename(path) for path in table.paths), table.images["rlnDefocusU"].astype(float)))
        self.assertEqual(values, {"mic_1.mrc": 12000.0, "mic_2.mrc": 21000.0})
        self.assertEqual(set(table.images["rlnDefocusV"].astype(float)), {11500.0, 20500.0})
        self.assertEqual(set(table.images["rlnCtfMaxResolution"].astype(float)), {4.5})
        self.assertEqual(set(table.images["rlnPhaseShift"].astype(float)), {90.0})
        self.assertIn("Without a CTF, not in the STAR file: 1 micrograph.", protocol.summary())

    def makeCtfs(self, name, defoci):
        """Return a set of CTFs of the given micrographs."""
        ctfs = SetOfCTF(filename=self.proj.getTmpPath(f"{name}.sqlite"))
        for micName, defocus in defoci.items():
            micrograph = Micrograph()
            micrograph.setMicName(micName)
            ctf = CTFModel(defocusU=defocus, defocusV=defocus - 500, defocusAngle=30.0)
            ctf.setResolution(4.5)
            ctf.setFitQuality(0.1)
            ctf.setPhaseShift(90.0)
            ctf.setMicrograph(micrograph)
            ctfs.append(ctf)
        return self.keep(name, ctfs)

    def testWrongInputsAreRefused(self):
        """Every rule in one line that says what is wrong."""
        small = self.importMicrographs("small", 1, shape=(64, 64))
        both = SetOfMicrographs(filename=self.proj.getTmpPath("both.sqlite"))
        both.copyInfo(self.micrographs)
        folder = self.proj.getTmpPath("other")
        os.makedirs(folder)
        for number in (1, 2):
            mic = firstItem(self.micrographs)
            if number == 2:
                mic.setFileName(shutil.copy(mic.getFileName(), folder))
            mic.setObjId(number)
            both.append(mic)
        self.keep("both", both)
        fine = self.importModel("fine.safetensors", samplingRate=1.5)
        empty = SetOfMicrographs(filename=self.proj.getTmpPath("empty.sqlite"))
        empty.copyInfo(self.micrographs)
        strangers = self.makeCtfs("strangers", {"foreign.mrc": 1e4})
        twoSets = {"predictFrom": TWO_SETS, "inputMicrographsOdd": self.odd, "inputMicrographsEven": self.even}
        cases = [
            ({"inputMicrographs": both}, "would both be written as mic_1.mrc"),
            ({"inputModel": fine}, "coarser than the 1.5 Å/px"),
            ({"predictFrom": LINKED_HALVES}, "is not linked to halves"),
            ({**twoSets, "inputMicrographsEven": self.odd}, "the same set"),
            ({**twoSets, "inputMicrographsEven": small}, "Even micrographs are 64 x 64 px"),
            ({"predictFrom": TWO_SETS}, "Odd or even micrographs are missing"),
            ({"inputCTF": strangers}, "None of the CTFs belongs"),
            ({"inputCTF": self.makeCtfs("none", {})}, "The set of CTFs is empty"),
            ({"inputMicrographs": self.keep("empty", empty)}, "The set of micrographs is empty"),
            ({"streamingBatchSize": 0}, "it must be 1 or more"),
            ({"tile": 3}, "*Tile size (px)* is 3"),
        ]
        for options, words in cases:
            problems = self.denoise(self.micrographs, **options).validate()
            self.assertEqual(len(problems), 1, (words, problems))
            self.assertIn(words, problems[0])
        self.assertEqual(self.denoise(self.micrographs, **twoSets).validate(), [])

    def testWhatCanBeDoneButShouldNot(self):
        """Warnings: micrographs of other pixels, smaller than tiles or training crops; none for what fits."""
        self.assertEqual(self.denoise(self.micrographs)._warnings(), [])
        coarse = self.importModel("coarse.safetensors", samplingRate=6.0, crop=512)
        warnings = self.denoise(self.micrographs, inputModel=coarse)._warnings()
        self.assertIn("trained on micrographs of 6 Å/px, these have 3 Å/px", warnings[0])
        self.assertIn("48 px wide, smaller than the crops it was trained on (512 px)", warnings[1])
        meant = self.importModel("meant.safetensors", samplingRate=6.0, options={"sampling_rate": 6.0})
        self.assertEqual(self.denoise(self.micrographs, inputModel=meant)._warnings(), [])
        tiled = self.denoise(self.micrographs, tile=256)._warnings()
        self.assertIn("smaller than the tiles (256 px)", tiled[0])

    def testFutureModelIsWaitedFor(self):
        """With a model that is not there yet, the form says Schedule, and validation asks for nothing else."""
        future = self.newProtocol(CryodenProtImportModel, modelFile=self.model.getFileName())
        self.proj.saveProtocol(future)
        protocol = self.denoise(self.micrographs)
        protocol.inputModel.set(future)
        protocol.inputModel.setExtended("outputModel")
        self.assertEqual(protocol.getInputStatus(), (False, False, True))
        waiting = ["*Denoiser* is not there yet; press Schedule, which waits for it."]
        self.assertEqual(protocol.validate(), waiting)
        self.assertEqual(protocol._warnings(), [])
        self.launchProtocol(future)
        self.assertEqual(protocol.validate(), [])

    def testGeneralModelWhereNoneIsGiven(self):
        """The field may be empty: then the general model denoises, and the summary says what is not known."""
        protocol = self.denoise(self.micrographs, inputModel=None)
        self.assertEqual((protocol.validate(), protocol._warnings()), ([], []))
        self.launchProtocol(protocol)
        micrographs = protocol.outputMicrographs
        self.assertEqual(micrographs.getSize(), 3)
        self.assertAlmostEqual(micrographs.getSamplingRate(), 4.0, 3)
        summary = "\n".join(protocol._summary())
        self.assertIn("By the general model. How good it is on these micrographs is not measured", summary)
        self.assertIn("To measure it, run *evaluate denoiser*", summary)
        self.assertIn("Denoiser: the general model that comes with it.", protocol._methods()[0])
        self.assertEqual(protocol._continueProblems(), [])

        imported = self.newProtocol(CryodenProtImportModel, modelFile="general")
        self.assertEqual(imported.validate(), [])
        model = self.finishHere(imported, CryodenProtImportModel.importStep).outputModel
        self.assertEqual(model.getDescription(), "General model, 4.00 Å/px")
        self.assertEqual(self.denoise(self.micrographs, inputModel=model)._warnings(), [])

        coarse = self.importMicrographs("coarse", 1)
        coarse.setSamplingRate(7.0)
        problems = self.denoise(self.keep("coarse", coarse), inputModel=None).validate()
        self.assertEqual(len(problems), 1)
        self.assertIn("the general model is for micrographs of up to 6.5 Å/px", problems[0])

    def testOptionsReachTheDenoiser(self):
        """Every field of the form is in the options of the command."""
        coarse = self.importModel("coarser.safetensors", samplingRate=6.0)
        protocol = self.launchDenoise(
            self.micrographs, inputModel=coarse, quality=1, dtype=1, precision=2, tile=64, full_size=True, scale=1,
            thumbnails=2,
        )  # fmt: skip
        with open(protocol._getExtraPath("options.json")) as file:
            options = json.load(file)
        expected = {"quality": "best", "dtype": "float16", "precision": "float32", "tile": 64, "device": "cpu"}
        expected.update(full_size=True, scale="standard", thumbnails="jpeg", folders="flat")
        self.assertEqual({key: options[key] for key in expected}, expected)
        micrographs = protocol.outputMicrographs
        self.assertAlmostEqual(micrographs.getSamplingRate(), SAMPLING_RATE, 4)
        self.assertEqual(micrographs.getDim()[:2], SHAPE[::-1])
        self.assertEqual(
            sum(name.endswith(".jpg") for _, _, names in os.walk(protocol._getExtraPath()) for name in names), 3
        )
