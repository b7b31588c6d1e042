"""Atomic models: which are taken, how they are assembled, and what they are as potentials."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Sequence

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoden.simulate.shapes import Particle, build_shape

ROOT = Path(__file__).parents[2]
CODES = {
    "A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "H": "HIS", "I": "ILE", "K": "LYS",
    "L": "LEU", "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN", "R": "ARG", "S": "SER", "T": "THR", "V": "VAL",
    "W": "TRP", "Y": "TYR",
}  # fmt: skip
ATOMS = (("N", "N"), ("CA", "C"), ("C", "C"), ("O", "O"), ("CB", "C"))
"""Of each made-up residue; hydrogens and water are added to be left out."""


@pytest.fixture(scope="module")
def specimens() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("specimens", ROOT / "training_sets" / "specimens.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["specimens"] = module
    spec.loader.exec_module(module)
    return module


def pdb_text(sequence: str, radius: float = 14.0, title: str = "A MODEL", n_copies: int = 1) -> str:
    """Return a PDB file of one globular chain; its biological assembly is of copies shifted by 50 A along x."""
    rng = np.random.default_rng(3)
    lines = [f"TITLE     {title}"]
    lines += ["REMARK 350", "REMARK 350 BIOMOLECULE: 1", "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A"]
    for copy in range(1, n_copies + 1):
        for row, shift in zip((1, 2, 3), (50.0 * (copy - 1), 0.0, 0.0)):
            one = [1.0 if axis == row else 0.0 for axis in (1, 2, 3)]
            lines.append("REMARK 350   BIOMT{}{:4d}{:10.6f}{:10.6f}{:10.6f}{:15.5f}".format(row, copy, *one, shift))

    def atom(kind: str, name: str, residue: str, number: int, element: str) -> str:
        x, y, z = radius * rng.uniform(-1, 1, 3)
        serial = len(lines) % 99999
        where = f"{kind:6}{serial:5d}  {name:<3} {residue} A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
        return f"{where}  1.00 20.00          {element:>2}"

    for number, letter in enumerate(sequence, 1):
        lines += [atom("ATOM", name, CODES[letter], number, element) for name, element in (*ATOMS, ("H", "H"))]
    lines += ["TER", atom("HETATM", "O", "HOH", len(sequence) + 1, "O"), "END"]
    return "\n".join(lines) + "\n"


def globule(specimens: ModuleType, n_residues: int) -> object:
    """Return a specimen whose atoms fill a sphere as those of a protein do."""
    rng = np.random.default_rng(5)
    z = rng.choice([6, 7, 8, 16], 8 * n_residues, p=[0.625, 0.17, 0.2, 0.005]).astype(np.uint8)
    radius = (3 / (4 * np.pi) * 135 * n_residues) ** (1 / 3)
    points = rng.standard_normal((len(z), 3))
    points *= (radius * rng.uniform(0, 1, len(z)) ** (1 / 3) / np.linalg.norm(points, axis=1))[:, None]
    part = specimens.Part(points.astype(np.float32), z, np.eye(3, 4, dtype=np.float32)[None])
    elements = {1: (0.529, 1.008), 6: (2.509, 12.011), 7: (2.214, 14.007), 8: (1.983, 15.999), 16: (5.16, 32.06)}
    return specimens.Specimen("globule", "none", "", "", "", "", "", False, (part,), elements)


# ---------------------------------------------------------------------- entries
def test_reads_the_assembly_without_water_and_hydrogens(specimens: ModuleType) -> None:
    pytest.importorskip("gemmi", reason="gemmi is not installed")
    entry = specimens.Entry("1abc", "none", "1abc.pdb")
    (part,) = specimens.read_entry(entry, pdb_text("ACDE" * 10, n_copies=2).encode())

    assert len(part.numbers) == 40 * len(ATOMS)
    assert set(part.numbers.tolist()) == {6, 7, 8}
    copies = part.copies().reshape(2, -1, 3)
    np.testing.assert_allclose(copies[1] - copies[0], np.broadcast_to((50.0, 0, 0), copies[0].shape), atol=1e-3)
    np.testing.assert_allclose(copies.mean(axis=(0, 1)), 0, atol=1e-3)


@pytest.mark.parametrize("family", ["human haemoglobin, beta", "sperm whale myoglobin", "horse ferritin, light"])
def test_refuses_globins_and_ferritins_by_their_sequence(specimens: ModuleType, family: str) -> None:
    pytest.importorskip("gemmi", reason="gemmi is not installed")
    sequence = specimens.KEPT_SEQUENCES[family]
    # Of a relative, every third residue is another one, and some are missing at the end.
    relative = "".join("A" if i % 3 == 0 else letter for i, letter in enumerate(sequence))[:-10]

    with pytest.raises(ValueError, match="kept for independent tests"):
        specimens.read_entry(specimens.Entry("1xyz", "none", "1xyz.pdb"), pdb_text(relative).encode())
    shuffled = "".join(np.random.default_rng(1).permutation(list(sequence)))
    specimens.read_entry(specimens.Entry("1xyz", "none", "1xyz.pdb"), pdb_text(shuffled).encode())


@pytest.mark.parametrize(
    "title", ["DEOXY HEMOGLOBIN AT 2 A", "Neuroglobin of mice", "CRYSTAL STRUCTURE OF APOFERRITIN"]
)
def test_refuses_globins_and_ferritins_by_their_name(specimens: ModuleType, title: str) -> None:
    pytest.importorskip("gemmi", reason="gemmi is not installed")
    with pytest.raises(ValueError, match="kept for independent tests"):
        specimens.read_entry(specimens.Entry("1xyz", "none", "1xyz.pdb"), pdb_text("ACDE", title=title).encode())


def test_takes_immunoglobulins(specimens: ModuleType) -> None:
    pytest.importorskip("gemmi", reason="gemmi is not installed")
    specimens.require_allowed("1igy", "IMMUNOGLOBULIN G1, TRANSTHYRETIN", ["ACDE" * 30])


def test_three_entries_are_held_out_and_no_recipe_uses_them(specimens: ModuleType) -> None:
    held_out = {entry.name for entry in specimens.ENTRIES if entry.held_out}

    assert len(held_out) == 3
    assert not held_out & {recipe.entry for recipe in specimens.RECIPES}
    assert len({entry.name for entry in specimens.ENTRIES}) == len(specimens.ENTRIES)


# ---------------------------------------------------------------------- assemblies
@pytest.mark.parametrize(
    ("kind", "n", "n_copies"), [("ring", 5, 5), ("dihedral", 3, 6), ("filament", 1, None), ("tube", 4, None),
                                ("patch", 3, 9), ("shell", 1, 60)]
)  # fmt: skip
def test_copies_touch_but_do_not_overlap(specimens: ModuleType, kind: str, n: int, n_copies: int) -> None:
    base = globule(specimens, 60).parts
    parts = specimens.assemble(specimens.Recipe("none", kind, n), base, np.random.default_rng(2))

    copies = parts[0].copies().reshape(len(parts[0].operators), -1, 3)
    assert n_copies is None or len(copies) == n_copies
    rotations = parts[0].operators[:, :, :3].astype(np.float64)
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotations.shape), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-5)
    away = distances_to_others(copies)
    assert away.min() < 8  # beads are in cells of 5 A
    assert np.mean(away < 2) < 0.1


def distances_to_others(copies: np.ndarray) -> np.ndarray:
    """Return for each atom of the first copy how far in A the next atom of another copy is."""
    others = copies[1:].reshape(-1, 3)
    squared = np.square(copies[0]).sum(axis=1)[:, None] + np.square(others).sum(axis=1) - 2 * copies[0] @ others.T
    return np.sqrt(np.maximum(squared.min(axis=1), 0))


def test_icosahedral_rotations_are_a_group(specimens: ModuleType) -> None:
    group = specimens.icosahedral_rotations()

    assert len(group) == 60
    products = np.einsum("aij,bjk->abik", group[:7], group).reshape(-1, 9)
    distances = np.abs(products[:, None] - group.reshape(1, 60, 9)).max(axis=2)
    assert (distances.min(axis=1) < 1e-9).all()


# ---------------------------------------------------------------------- potentials
def test_potential_is_as_strong_as_that_of_a_built_in_particle_of_the_same_mass(specimens: ModuleType) -> None:
    volume = build_shape("globule", 3.0, np.random.default_rng(1))
    mass = 1093 * 110.0  # residues of the built-in globule
    particle = Particle(volume, 3.0, 2.5)
    straight = particle.project(Rotation.identity(), 3.0)
    built_in = float(straight.sum(dtype=np.float64)) * 3.0**2

    specimen = globule(specimens, 1093)
    box = specimens.smallest_box(specimen, 3.0)
    atomic = float(specimens.density(specimen, 3.0, box).sum(dtype=np.float64)) * 3.0**3

    assert specimen.mass_Da == pytest.approx(mass, rel=0.1)
    assert atomic == pytest.approx(built_in, rel=0.2)


@pytest.mark.parametrize("voxel", [1.5, 2.5, 4.0])
def test_integral_of_the_potential_is_that_of_the_atoms_above_the_ice(specimens: ModuleType, voxel: float) -> None:
    specimen = globule(specimens, 100)
    volume = specimens.density(specimen, voxel, specimens.smallest_box(specimen, voxel))

    expected = specimens.CONTRAST * float(
        (specimen.potentials - specimens.ICE_POTENTIAL * specimen.volumes).sum(dtype=np.float64)
    )
    assert float(volume.sum(dtype=np.float64)) * voxel**3 == pytest.approx(expected, rel=1e-3)


def test_one_atom_is_where_it_should_be_and_has_nothing_beyond_nyquist(specimens: ModuleType) -> None:
    place = np.array([[6.0, -4.0, 2.0], [-6.0, 4.0, -2.0]], np.float32)
    part = specimens.Part(place, np.array([26, 8], np.uint8), np.eye(3, 4, dtype=np.float32)[None])
    elements = {1: (0.529, 1.008), 8: (1.983, 15.999), 26: (7.165, 55.845)}
    specimen = specimens.Specimen("pair", "none", "", "", "", "", "", False, (part,), elements)
    volume = specimens.density(specimen, 2.0, 32)

    assert np.unravel_index(np.argmax(volume), volume.shape) == (17, 14, 19)  # z, y, x of the heavier one
    spectrum = np.abs(np.fft.rfftn(volume))
    f = np.fft.fftfreq(32)
    radius = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + np.fft.rfftfreq(32) ** 2)
    assert spectrum[radius > 0.5].max() < 1e-4 * spectrum.max()


def test_refuses_a_box_that_is_too_small(specimens: ModuleType) -> None:
    specimen = globule(specimens, 100)
    with pytest.raises(ValueError, match=r"globule needs a box of \d+ voxels, not of 8"):
        specimens.density(specimen, 3.0, 8)


def test_file_gives_back_what_was_collected(
    specimens: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gemmi", reason="gemmi is not installed")
    monkeypatch.setattr(specimens, "SOURCES", {"made-up": specimens.Source("made-up", "1.0")})
    entries = [
        specimens.Entry("1abc", "made-up", "1abc.pdb"),
        specimens.Entry("2abc", "made-up", "2abc.pdb", held_out=True),
    ]
    monkeypatch.setattr(specimens, "ENTRIES", entries)
    monkeypatch.setattr(specimens, "RECIPES", (specimens.Recipe("1abc", "ring", 3),))
    texts = {"1abc.pdb": pdb_text("ACDEFGHIKL" * 4, n_copies=9), "2abc.pdb": pdb_text("WY" * 160)}
    monkeypatch.setattr(specimens, "Archive", lambda source, folder: _Texts(texts))
    collected, arrays = specimens.collect(tmp_path)
    np.savez_compressed(tmp_path / "specimens.npz", **arrays)

    loaded = specimens.load(tmp_path / "specimens.npz")
    assert [item.name for item in loaded] == ["1abc", "2abc", "1abc ring 3"]
    assert [item.held_out for item in loaded] == [False, True, False]
    assert {item.licence for item in loaded} == {"CC0-1.0"}
    for before, after in zip(collected, loaded):
        np.testing.assert_allclose(after.coordinates, before.coordinates, atol=0.02)
        assert after.mass_Da == pytest.approx(before.mass_Da)
        assert np.abs(after.coordinates.mean(axis=0)).max() < 0.05


class _Texts:
    """A package whose files are given."""

    def __init__(self, texts: dict) -> None:
        self._texts = texts

    def read(self, file: str) -> Sequence[object]:
        return file, self._texts[file].encode()
