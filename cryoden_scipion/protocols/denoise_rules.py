"""What micrographs, denoiser, halves and CTFs must have in common to be denoised together, in words for the user."""

from __future__ import annotations

import os
from typing import Dict, List, Optional

from pwem.objects import SetOfCTF, SetOfMicrographs

from cryoden.config import shared
from cryoden.formats.files import mrc_name
from cryoden.formats.model_file import ModelCard
from cryoden_scipion import convert

FAR_RATIO = 1.25
"""How much finer the pixels may be than those of a model that was trained at its micrographs' own, without a word."""


def emptyProblems(micrographs: SetOfMicrographs, ctfs: Optional[SetOfCTF]) -> List[str]:
    """Return which of the sets is empty, and will stay so."""
    problems = []
    if not micrographs.getSize() and not micrographs.isStreamOpen():
        problems.append("The set of micrographs is empty; rerun the protocol that makes it, or select another.")
    if ctfs is not None and not ctfs.getSize() and not ctfs.isStreamOpen():
        problems.append("The set of CTFs is empty; leave the field empty to denoise without CTFs.")
    return problems


def rateProblems(micrographs: SetOfMicrographs, card: ModelCard) -> List[str]:
    """Return what forbids to bring micrographs to the pixel size of a model."""
    rate = micrographs.getSamplingRate()
    if rate <= 1.01 * card.rates[1]:
        return []
    if card.is_general:
        return [
            f"The micrographs have {rate:.3g} Å/px; the general model is for micrographs of up to {card.rates[1]:g} "
            "Å/px. Give micrographs that are binned less, or select a denoiser that was trained on these."
        ]
    return [
        f"The micrographs have {rate:.3g} Å/px, coarser than the {card.sampling_rate:.3g} Å/px of the denoiser; train "
        "one at this or a coarser pixel size."
    ]


def nameProblems(micrographs: SetOfMicrographs) -> List[str]:
    """Return which two micrographs would be written under one name."""
    written: Dict[str, str] = {}
    for micrograph in micrographs:
        path = micrograph.getFileName()
        other = written.setdefault(mrc_name(path), path)
        if other != path:
            return [f"{other} and {path} would both be written as {mrc_name(path)}; denoise them in two runs."]
    return []


def linkProblems(micrographs: SetOfMicrographs) -> List[str]:
    """Return whether micrographs lack links to their halves."""
    first = convert.firstItem(micrographs)
    if first is None or convert.linkedHalves(first) is not None:
        return []
    return [
        f"Micrograph '{first.getMicName()}' is not linked to halves; denoise full micrographs, or select separate sets."
    ]


def halfProblems(
    micrographs: SetOfMicrographs, odd: Optional[SetOfMicrographs], even: Optional[SetOfMicrographs]
) -> List[str]:
    """Return why two sets cannot be the halves of micrographs."""
    if odd is None or even is None:
        return ["Odd or even micrographs are missing; select both, or denoise full micrographs."]
    if odd.getObjId() == even.getObjId():
        return ["Odd and even are the same set; select the odd one and the even one."]
    for half, name in ((odd, "Odd"), (even, "Even")):
        if half.getSize() and micrographs.getSize() and half.getDim()[:2] != micrographs.getDim()[:2]:
            (x, y), (fullX, fullY) = half.getDim()[:2], micrographs.getDim()[:2]
            return [
                f"{name} micrographs are {x} x {y} px, the micrographs {fullX} x {fullY}; all must come from the same "
                "movies."
            ]
    return []


def ctfProblems(micrographs: SetOfMicrographs, ctfs: Optional[SetOfCTF]) -> List[str]:
    """Return whether CTFs are those of other micrographs."""
    if ctfs is None or not ctfs.getSize() or ctfs.isStreamOpen():
        return []
    names = {convert.micNameKey(micrograph) for micrograph in micrographs}
    known = convert.ctfsByName(ctfs)
    if not names.isdisjoint(known):
        return []
    return [
        f"None of the CTFs belongs to these micrographs ('{next(iter(known))}' is not among them); select the CTFs "
        "of the micrographs to denoise."
    ]


def repeatWarnings(micrographs: SetOfMicrographs, recordName: str) -> List[str]:
    """Return whether some micrographs are denoised ones: a file of this name is in their folder."""
    folders = {os.path.dirname(micrograph.getFileName()) for micrograph in micrographs}
    if any(os.path.exists(os.path.join(folder, recordName)) for folder in folders):
        return ["The input is already a denoised set; denoising twice removes signal. Select the original micrographs."]
    return []


def sizeWarnings(micrographs: SetOfMicrographs, card: ModelCard, tile: Optional[int]) -> List[str]:
    """Return what does not fit well between micrographs, model and tile size, though it can be done."""
    warnings = []
    ratio = max(card.sampling_rate / micrographs.getSamplingRate(), 1.0)
    isTrainedUnscaled = not card.is_general and card.training.get("options", {}).get("sampling_rate") in (
        None,
        shared.FULL,
    )
    if isTrainedUnscaled and ratio > FAR_RATIO:
        warnings.append(
            f"The denoiser was trained on micrographs of {card.sampling_rate:.3g} Å/px, these have "
            f"{micrographs.getSamplingRate():.3g} Å/px. They are brought to its pixel size, but their noise is "
            "different: a denoiser trained on these data will do better."
        )

    side = round(min(micrographs.getDim()[:2]) / ratio)
    least = tile or card.training.get("crop") or 0
    if side < least:
        what = "the tiles" if tile else "the crops it was trained on"
        warnings.append(
            f"At the denoiser's pixel size the micrographs are {side} px wide, smaller than {what} ({least} px): much "
            "of what it sees there is mirrored edge."
        )
    return warnings
