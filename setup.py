"""Packaging of cryoden; reads the version without importing the package."""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "cryoden" / "__init__.py").read_text()).group(1)

NAME = "scipion-em-cryoden"
CHECKOUT_NAME = re.compile(r"(scipion-em-)?cryoden(-[a-z0-9-]+)?")
"""Folders of checkouts whose name Scipion's installer can take for a distribution's."""

PACKAGES = ["_cryoden_scipion", "cryoden", "cryoden.*", "cryoden_scipion", "cryoden_scipion.*"]

# docs/dependencies.md says what each is for. Upper limits keep NumPy at what Scipion pins (pyworkflow: 1.26.1):
# pandas 3 and newer imagecodecs need NumPy 2.
REQUIREMENTS = [
    "numpy>=1.19,<2",
    "scipy>=1.6",
    "scikit-image",
    "Pillow",
    "mrcfile>=1.4.3",
    "tifffile",
    "imagecodecs<2026.3",
    "pandas<3",
    "safetensors>=0.4",
    "tqdm",
    "matplotlib",
    "jinja2",
    "tyro>=0.9",
    "typing_extensions",
    "psutil",
    "requests",
]

# What trains and denoises. An extra, so that Scipion's own environment stays without it.
TORCH = ["torch>=2.4"]

# What reads and writes CryoSPARC's .cs files.
CRYOSPARC = ["cryosparc-tools>=5"]


def distribution_name() -> str:
    """Return the name that this installation goes by.

    `scipion3 installp -p FOLDER --devel` looks for a distribution of the folder's name, whatever the folder contains,
    and ends with an error where there is none.
    """
    is_for_scipion = "SCIPION_VERSION" in os.environ  # set by Scipion for every command that it starts
    return HERE.name if is_for_scipion and CHECKOUT_NAME.fullmatch(HERE.name) else NAME


setup(
    name=distribution_name(),
    version=VERSION,
    description="Denoise cryo-EM micrographs with a network trained on the user's own data (Scipion plugin)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    author="The cryoden developers",
    url="https://github.com/scipion-em/scipion-em-cryoden",
    python_requires=">=3.8",
    # Said although it is the default: it makes setuptools put this folder itself on the path of an editable
    # installation. Its other way, a finder that is asked last, loses against any folder named `cryoden` where Python
    # is started.
    package_dir={"": "."},
    packages=find_packages(include=PACKAGES),
    package_data={
        "cryoden.model": ["general.safetensors"],
        "cryoden.report": ["*.jinja"],
        "cryoden_scipion": ["protocols.conf", "cryoden_logo.png", "testData.json", "templates/*.json.template"],
    },
    install_requires=REQUIREMENTS,
    extras_require={"torch": TORCH, "cryosparc": CRYOSPARC},
    entry_points={
        "pyworkflow.plugin": ["cryoden_scipion = cryoden_scipion"],
        "console_scripts": [
            "cryoden = cryoden.__main__:main",
            "relion_cryoden_halves = cryoden.exchange.relion_job_main:run_halves",
            "relion_cryoden_train = cryoden.exchange.relion_job_main:run_train",
            "relion_cryoden_denoise = cryoden.exchange.relion_job_main:run_denoise",
            "relion_cryoden_run = cryoden.exchange.relion_job_main:run_all",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Bio-Informatics",
    ],
)
