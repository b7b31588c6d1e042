"""Where odd and even micrographs come from: two sets, or one that links its halves; the same fields in every form."""

from __future__ import annotations

import os
import time
from typing import Any, List, Optional, Tuple

from pwem.objects import SetOfMicrographs
from pyworkflow.object import Pointer
from pyworkflow.protocol import params

from cryoden.wording import counted
from cryoden_scipion import convert
from cryoden_scipion.protocols.protocol_base import CryodenProtBase

TWO_SETS, LINKED_SET = 0, 1
ODD_STAR, EVEN_STAR = "odd.star", "even.star"

WAIT_SECONDS = 10
"""Between two looks at a set that still grows."""

EMPTY_SET = "A set of micrographs is empty; rerun the protocol that makes it, or select another."


class HalvesInput(CryodenProtBase):
    """A protocol whose input are halves."""

    # --------------------------- DEFINE param functions ----------------------
    @staticmethod
    def _defineHalvesParams(form: params.Form) -> None:
        """Add the fields that say where the odd and even micrographs are."""
        form.addParam(
            "halvesFrom",
            params.EnumParam,
            choices=["separate sets", "linked halves"],
            default=TWO_SETS,
            display=params.EnumParam.DISPLAY_HLIST,
            label="Halves from",
            help="*separate sets*: one set of odd and one of even micrographs, matched by micrograph name (never by "
            "order).\n"
            "*linked halves*: one set of full micrographs that are linked to their halves, as _split movies into "
            "halves_ and motioncorr make them.",
        )
        for name, source, label, text in (
            ("inputMicrographsOdd", TWO_SETS, "Odd micrographs", "Sums of the odd frames."),
            ("inputMicrographsEven", TWO_SETS, "Even micrographs", "Sums of the even frames of the same movies."),
            (
                "inputMicrographs", LINKED_SET, "Micrographs with halves",
                "Full micrographs that are linked to their odd and even halves.",
            ),
        ):  # fmt: skip
            form.addParam(
                name,
                params.PointerParam,
                pointerClass="SetOfMicrographs",
                condition=f"halvesFrom=={source}",
                important=True,
                allowsNull=True,
                label=label,
                help=text,
            )

    @staticmethod
    def _defineWaitParam(form: params.Form, what: str) -> None:
        """Add the field that says for how many micrographs to wait; `what` says what is done then."""
        form.addParam(
            "waitForPairs",
            params.IntParam,
            default=0,
            label="Micrographs to wait for",
            help=f"For streaming, while the sets are still growing: wait for this many pairs of halves, {what} while "
            "the acquisition goes on. 0: what is there now.",
        )

    # --------------------------- STEPS functions ------------------------------
    def _writeHalvesStars(self, folder: Optional[str] = None) -> None:
        """Write odd.star and even.star, matched by micrograph name, into a folder (the run's own)."""
        unlinked = self._unlinkedNames()
        if unlinked:
            self.warning(f"Left out: {counted(len(unlinked), 'micrograph')} without halves: {', '.join(unlinked)}")

        for half, star in enumerate((ODD_STAR, EVEN_STAR)):
            micrographs, files = self._halves(half)
            names = [convert.micNameKey(micrograph) for micrograph in micrographs]
            path = os.path.join(folder, star) if folder else self._getExtraPath(star)
            convert.writeImagesStar(path, micrographs, files=files, names=names)

    def _waitForInputs(self) -> None:
        """Return when the sets have enough micrographs, or have all that they will ever have."""
        for pointer in self._inputPointers():
            self._waitFor(pointer.get().getFileName())

    def _waitFor(self, path: str) -> None:
        """Return when the set in a file has enough micrographs, or has all that it will ever have."""
        while True:
            size, isComplete = convert.readSetFile(
                path, SetOfMicrographs, lambda current: (current.getSize(), current.isStreamClosed()), (0, False)
            )
            if isComplete or size >= self.waitForPairs.get():
                return
            self.info(f"Waiting for micrographs: {size} of {self.waitForPairs.get()} so far.")
            time.sleep(WAIT_SECONDS)

    # --------------------------- INFO functions -------------------------------
    def _validateHalves(self) -> List[str]:
        """Return what is wrong with the input, in words for the user."""
        for pointer in self._inputPointers():
            if pointer.get() is None:
                return ["Input micrographs are missing; select the odd and even sets, or one set with linked halves."]
        if self.halvesFrom.get() == TWO_SETS:
            return self._validateTwoSets()

        first = convert.firstItem(self.inputMicrographs.get())
        if first is None:
            return [EMPTY_SET]
        if convert.linkedHalves(first) is None:
            return [
                f"Micrograph '{first.getMicName()}' is not linked to halves; split its movie, or select separate sets."
            ]
        return []

    def _validateWait(self) -> List[str]:
        """Return what is wrong with the number of micrographs to wait for."""
        if self.waitForPairs.get() >= 0:
            return []
        return [f"*{self._labelOf('waitForPairs')}* is negative; it must be 0 or more."]

    def _validateTwoSets(self) -> List[str]:
        odd, even = self.inputMicrographsOdd.get(), self.inputMicrographsEven.get()
        if odd.getObjId() == even.getObjId():
            return ["Odd and even are the same set; select the odd one and the even one."]
        if not odd.getSize() or not even.getSize():
            return [EMPTY_SET]

        problems = []
        if abs(odd.getSamplingRate() / even.getSamplingRate() - 1) > 1e-3:
            problems.append(
                f"Odd micrographs have {odd.getSamplingRate():g} Å/px, even ones {even.getSamplingRate():g}; "
                "both must come from the same movies."
            )
        if odd.getDim()[:2] != even.getDim()[:2]:
            problems.append(
                f"Odd micrographs are {odd.getDim()[0]} x {odd.getDim()[1]} px, even ones {even.getDim()[0]} x "
                f"{even.getDim()[1]}; both must come from the same movies."
            )
        return problems

    # --------------------------- UTILS functions ------------------------------
    def _inputPointers(self) -> List[Pointer]:
        if self.halvesFrom.get() == LINKED_SET:
            return [self.inputMicrographs]
        return [self.inputMicrographsOdd, self.inputMicrographsEven]

    def _unlinkedNames(self) -> List[str]:
        """Return the names of the micrographs of one set that link no halves."""
        if self.halvesFrom.get() != LINKED_SET:
            return []
        micrographs = convert.itemsOfFile(self.inputMicrographs.get().getFileName())
        return [convert.micNameKey(mic) for mic in micrographs if convert.linkedHalves(mic) is None]

    def _halves(self, half: int) -> Tuple[List[Any], List[str]]:
        """Return the micrographs that have halves, and the files of one half (0 odd, 1 even)."""
        if self.halvesFrom.get() == LINKED_SET:
            micrographs = convert.itemsOfFile(self.inputMicrographs.get().getFileName())
            links = [(micrograph, convert.linkedHalves(micrograph)) for micrograph in micrographs]
            linked = [(micrograph, files[half]) for micrograph, files in links if files is not None]
            return [micrograph for micrograph, _ in linked], [file for _, file in linked]

        micrographs = convert.itemsOfFile(self._inputPointers()[half].get().getFileName())
        return micrographs, [os.path.normpath(micrograph.getFileName()) for micrograph in micrographs]
