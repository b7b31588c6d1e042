"""The commands of the simulation: what they print; each returns what failed."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

from cryoden.config.simulate import SimulateMoviesConfig, SimulatePairsConfig
from cryoden.errors import Problem
from cryoden.formats import outputs
from cryoden.simulate.movies import simulate_movies
from cryoden.simulate.pairs import simulate_pairs
from cryoden.wording import counted, counted_of


def run_simulate_pairs(config: SimulatePairsConfig) -> Mapping[str, Problem]:
    """Simulate pairs and say where they are; returns the failures."""
    outcome = simulate_pairs(config)
    print(f"{counted_of(outcome.n_done, outcome.n_inputs, 'pair')} simulated: {Path(config.output)}/{{odd,even,clean}}")
    return outcome.failures


def run_simulate_movies(config: SimulateMoviesConfig) -> Mapping[str, Problem]:
    """Simulate movies and say where they are."""
    facts = simulate_movies(config)
    n_particles = sum(len(item.coordinates) for item in facts.values())
    print(
        f"Simulated {counted(len(facts), 'movie')} with {counted(n_particles, 'particle')}: "
        f"{Path(config.output) / outputs.MOVIES_STAR}"
    )
    return {}
