"""What the commands of the exchange print; each returns what failed, name -> reason."""

from __future__ import annotations

import json
from typing import Dict, Mapping

from cryoden.config.exchange import (
    ImportWeightsConfig,
    PatchesExportConfig,
    PatchesVerifyConfig,
    StepBenchmarkConfig,
    VerifyCompareConfig,
    VerifyExportConfig,
)
from cryoden.config.relion import RelionCoordinatesConfig
from cryoden.errors import Problem
from cryoden.exchange.patch_export import export_patches
from cryoden.exchange.patch_verify import verify_patches
from cryoden.exchange.relion_coordinates import rescale_coordinates
from cryoden.formats import outputs
from cryoden.formats.patch_file import PatchFolder, open_patches
from cryoden.wording import counted, counted_of


def run_patches_export(config: PatchesExportConfig) -> Mapping[str, Problem]:
    """Write patch files and say how many; returns the failures."""
    outcome = export_patches(config)
    counts = _counts(open_patches(config.output))
    print(
        f"Patches of {outcome.n_done} of {counted(outcome.n_inputs, 'micrograph')}, {counts}: "
        f"{config.output}/{outputs.MANIFEST}"
    )
    return outcome.failures


def run_patches_verify(config: PatchesVerifyConfig) -> Mapping[str, Problem]:
    """Check patch files; returns what is wrong."""
    problems = verify_patches(config)
    if not problems:
        folder = open_patches(config.folder, config.patch)
        manifest = "" if folder.manifest else " There is no manifest: checksums and sources could not be checked."
        print(f"{config.folder}: {_counts(folder)}, {folder.patch} x {folder.patch} px; all is well.{manifest}")
    return problems


def run_relion_coordinates(config: RelionCoordinatesConfig) -> Mapping[str, Problem]:
    """Rescale picks and say where they are; returns the failures."""
    outcome = rescale_coordinates(config)
    star = f"{config.output}/{outputs.COORDINATES_STAR}"
    print(f"Picks of {counted_of(outcome.n_done, outcome.n_inputs, 'micrograph')} rescaled: {star}")
    return outcome.failures


def run_verify_export(config: VerifyExportConfig) -> Mapping[str, Problem]:
    """Write a verification bundle."""
    from cryoden.exchange.verification import export_bundle  # torch

    bundle = export_bundle(config)
    print(f"{counted(len(bundle.items), 'item')}, loss {float(bundle.arrays['loss']):.9g}: {config.output}/index.json")
    return {}


def run_verify_compare(config: VerifyCompareConfig) -> Mapping[str, Problem]:
    """Compare a verification bundle and print every difference; returns what differs too much."""
    from cryoden.exchange.verification import compare_bundles  # torch

    differences = compare_bundles(config)
    print(f"{'item':28}{'kind':10}{'max absolute':>14}{'max relative':>14}{'allowed':>10}")
    failures: Dict[str, Problem] = {}
    for item in differences:
        verdict = "" if item.is_passed else "  FAILED"
        print(f"{item.name:28}{item.kind:10}{item.absolute:14.3g}{item.relative:14.3g}{item.tolerance:10.0e}{verdict}")
        if not item.is_passed:
            failures[item.name] = Problem(
                "difference", f"differs by {item.relative:.3g} of its largest value; {item.tolerance:g} is allowed."
            )
    print(f"{len(differences) - len(failures)} of {counted(len(differences), 'item')} within tolerance.")
    return failures


def run_import_weights(config: ImportWeightsConfig) -> Mapping[str, Problem]:
    """Make a model of somebody else's weights."""
    from cryoden.exchange.verification import import_weights  # torch

    print(f"Model written: {import_weights(config)}")
    return {}


def run_step_benchmark(config: StepBenchmarkConfig) -> Mapping[str, Problem]:
    """Time the parts of a step; the last line is JSON."""
    from cryoden.exchange.step_benchmark import PARTS, time_steps  # torch

    times = time_steps(config)
    total = sum(times[part] for part in PARTS)
    for part in PARTS:
        print(f"{part:10}{1e3 * times[part]:10.2f} ms {100 * times[part] / total:6.1f} %")
    print(f"{'step':10}{1e3 * total:10.2f} ms  {times['crops_per_second']:.2f} crops/s")
    print(json.dumps(times))
    return {}


def _counts(folder: PatchFolder) -> str:
    return ", ".join(f"{files.n} to {part}" for part, files in folder.parts.items())
