"""Package metadata. Tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "fastimae/__init__.py").read_text()).group(1)

EXTRAS = {
    "ffcv": ["ffcv>=1.0.2"],
    "dali": ["nvidia-dali-cuda130>=2.0; platform_system == 'Linux'"],
    "eval": [
        "piq>=0.8",
        "scikit-learn>=1.4",
        "timm>=1.0.20",
        "torchmetrics>=1.4",
    ],
    "dev": [
        "hypothesis>=6.100",
        "pre-commit>=3.7",
        "pytest>=8.0",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff==0.17.5",
        "timm>=1.0.20",
        "transformers>=4.57",
    ],
}

# The decode engine. Where it cannot be built the rest is installed without it.
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "loaders/csrc").glob("*.cc"))
HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "loaders/csrc").glob("*.h"))
NATIVE = Extension(
    "fastimae.loaders._native",
    SOURCES,
    depends=HEADERS,
    libraries=["jpeg"],
    language="c++",
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-ffp-contract=off",
    ],
    optional=True,
)

setup(
    name="fastimae",
    version=VERSION,
    description="Fast, trustworthy pre-training of masked autoencoders (MAE, i-MAE)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # fastimae/kernels and fastimae/loaders are links to the top-level folders of those names.
    packages=find_packages(include=["fastimae", "fastimae.*"]),
    package_data={"fastimae.kernels": ["attention_sm*.json"]},
    ext_modules=[NATIVE],
    install_requires=[
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pillow>=13.0",
        "psutil>=5.9",
        "pyyaml>=6.0",
        "safetensors>=0.4",
        "scipy>=1.11",
        "tensorboard>=2.16",
        "torch>=2.10",
        "torchvision>=0.25",
        "tqdm>=4.66",
        "triton>=3.6; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "tyro>=1.0",
    ],
    extras_require={**EXTRAS, "all": sorted({dep for deps in EXTRAS.values() for dep in deps})},
    entry_points={
        "console_scripts": [
            "fastimae-train = fastimae.cli:train",
            "fastimae-convert = fastimae.cli:convert",
            "fastimae-doctor = fastimae.cli:doctor",
            "fastimae-bench = fastimae.cli:bench",
            "fastimae-eval = fastimae.cli:evaluate",
            "fastimae-export = fastimae.cli:export",
            "fastimae-import = fastimae.cli:import_",
        ]
    },
)
