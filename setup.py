"""Packaging of cryoden; reads the version without importing the package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "cryoden" / "__init__.py").read_text()).group(1)

# docs/dependencies.md says what each is for. Upper limits keep NumPy at what Scipion pins (pyworkflow: 1.26.1):
# pandas 3 and newer imagecodecs need NumPy 2.
REQUIREMENTS = [
    "numpy>=1.19,<2",
    "scipy>=1.6",
    "scikit-image",
    "Pillow",
    "torch>=2.4",
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

setup(
    name="scipion-em-cryoden",
    version=VERSION,
    description="Denoise cryo-EM micrographs with a network trained on the user's own data (Scipion plugin)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    author="The cryoden developers",
    python_requires=">=3.8",
    packages=find_packages(include=["cryoden", "cryoden.*", "cryoden_scipion", "cryoden_scipion.*"]),
    package_data={
        "cryoden.report": ["report.html.jinja"],
        "cryoden_scipion": ["protocols.conf", "cryoden_logo.png", "templates/*.json.template"],
    },
    install_requires=REQUIREMENTS,
    entry_points={
        "pyworkflow.plugin": ["cryoden_scipion = cryoden_scipion"],
        "console_scripts": ["cryoden = cryoden.__main__:main"],
    },
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Bio-Informatics",
    ],
)
