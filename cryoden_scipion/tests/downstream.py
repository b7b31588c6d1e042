"""The shipped workflow on simulated movies, to the end: which particles are picked, and where they are cut out."""

import json
import os
from collections import namedtuple

import numpy as np
import scipy.optimize
from pyworkflow import Config

from cryoden.formats import outputs
from cryoden.formats.run_record import recorded_options
from cryoden.simulate.facts import read_facts
from cryoden_scipion.convert import micNameKey

TEMPLATE_NAME = "movies_to_particles"
STEPS = ("import", "motion", "split", "train", "denoise", "pick", "extract")
"""The protocols of the template, in its order."""

MATCH_DIAMETERS = 0.4
"""A pick belongs to a particle if it lies at most so many diameters from its centre."""

Truth = namedtuple("Truth", "centres diameter")
"""Of one movie: centres `(n, 2)` (x, y) and diameter of the particles in A."""


def findTemplate():
    """Return the shipped template as Scipion finds it, with its fields."""
    plugin = Config.getDomain().getPlugins()["cryoden_scipion"]._pluginInstance
    template = next(template for template in plugin.getTemplates() if template.name == TEMPLATE_NAME)
    template.replaceEnvVariables()
    template.parseContent()
    return template


def openTemplate(project, values, changes):
    """Open the template in a project.

    Parameters
    ----------
    project : pyworkflow.project.Project
        Filled with the protocols.
    values : dict
        Alias of a field of the template -> its value.
    changes : dict
        Name of a step -> further parameters of its protocol.

    Returns
    -------
    dict
        Name of a step -> protocol, not launched.
    """
    template = findTemplate()
    for alias, value in values.items():
        if not template.setParamValue(alias, value):
            raise ValueError(f"The template has no field {alias}.")
    path = template.createTemplateFile()
    with open(path) as file:
        steps = json.load(file)
    for name, step in zip(STEPS, steps):
        step.update(changes.get(name, {}))
    with open(path, "w") as file:
        json.dump(steps, file)
    loaded = project.loadProtocols(path)
    os.remove(path)
    return {name: loaded[step["object.id"]] for name, step in zip(STEPS, steps)}


def readTruth(folder):
    """Return micrograph name -> Truth of what `cryoden simulate movies` wrote into a folder."""
    rate = recorded_options(os.path.join(folder, outputs.SIMULATION_RECORD))["sampling_rate"]
    truth = {}
    for name, facts in read_facts(folder).items():
        centres = rate * np.array(facts.coordinates).reshape(-1, 2)
        truth[name] = Truth(centres, rate * facts.diameter_px)
    return truth


def placesOf(coordinates):
    """Return micrograph name -> picks `(n, 2)` (x, y) in A."""
    rate = coordinates.getMicrographs().getSamplingRate()
    places = {}
    for coordinate in coordinates:
        name = os.path.splitext(coordinate.getMicName())[0]
        places.setdefault(name, []).append((rate * coordinate.getX(), rate * coordinate.getY()))
    return {name: np.array(found) for name, found in places.items()}


def recallAndPrecision(truth, places):
    """Return which share of the particles was found, which share of the picks is a particle, and their F1.

    Particles and picks are matched one to one, so that as many as possible lie close enough.
    """
    nFound = 0
    for name, (centres, diameter) in truth.items():
        picks = places.get(name, np.zeros((0, 2)))
        distances = np.hypot(*(centres[:, None] - picks[None]).transpose(2, 0, 1))
        isClose = distances <= MATCH_DIAMETERS * diameter
        rows, columns = scipy.optimize.linear_sum_assignment(isClose, maximize=True)
        nFound += int(isClose[rows, columns].sum())
    nTrue = sum(len(centres) for centres, _ in truth.values())
    nPicks = sum(map(len, places.values()))
    recall, precision = nFound / max(nTrue, 1), nFound / max(nPicks, 1)
    return recall, precision, 2 * recall * precision / max(recall + precision, 1e-9)


def checkParticles(particles, micrographs, places):
    """Return how many particles were cut, and the largest distance (A) from their picks, on the right micrographs.

    Raises
    ------
    ValueError
        If a particle names a micrograph that is none of the originals, or that was not picked there.
    """
    names = {micNameKey(micrograph) for micrograph in micrographs}
    rate, largest, n = micrographs.getSamplingRate(), 0.0, 0
    for particle in particles:
        coordinate = particle.getCoordinate()
        name = os.path.splitext(coordinate.getMicName())[0]
        if name not in names or name not in places:
            raise ValueError(f"A particle comes from '{name}', which is no original micrograph with picks.")
        place = rate * np.array([coordinate.getX(), coordinate.getY()])
        largest = max(largest, float(np.hypot(*(places[name] - place).T).min()))
        n += 1
    return n, largest


def runSteps(project, steps):
    """Run protocols one after the other; returns them finished.

    Raises
    ------
    RuntimeError
        With the protocol's own message, if one fails.
    """
    finished = {}
    for name, step in steps.items():
        project.launchProtocol(step, wait=True)
        project._updateProtocol(step)
        if not step.isFinished():
            raise RuntimeError(f"{step.getObjLabel()} failed: {step.getErrorMessage()}; see {step.getStderrLog()}")
        finished[name] = step
    return finished
