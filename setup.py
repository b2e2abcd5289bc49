"""Where the packages are, and how the decode engine is built; pyproject.toml has all the rest."""

import os
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

ROOT = Path(__file__).parent

# A checkout has these packages beside fastimae/, an installation inside it; fastimae/checkout.py is
# the other half.
BESIDE = {"fastimae.kernels": "kernels", "fastimae.loaders": "loaders"}
PACKAGES = {*find_packages(include=["fastimae", "fastimae.*"]), *BESIDE} | {
    f"{package}.{inner}" for package, folder in BESIDE.items() for inner in find_packages(folder)
}

# Whether the decode engine is built, by the environment variable FASTIMAE_ENGINE:
#   auto      (default) if it cannot be built, the rest is installed without it
#   require   if it cannot be built, the installation fails
#   portable  require, and for other machines: with the C++ runtime inside, and no symbols
#   skip      without it
ENGINE = os.environ.get("FASTIMAE_ENGINE", "auto")
if ENGINE not in (modes := ("auto", "require", "portable", "skip")):
    raise SystemExit(f"FASTIMAE_ENGINE={ENGINE}: must be one of {', '.join(modes)}")
# Symbols of the runtime that are not called would ask for a newer glibc.
PORTABLE = ["-static-libstdc++", "-Wl,--exclude-libs,ALL,--gc-sections", "-s"]
NATIVE = Extension(
    "fastimae.loaders._native",
    sorted(str(path.relative_to(ROOT)) for path in (ROOT / "loaders/csrc").glob("*.cc")),
    depends=sorted(str(path.relative_to(ROOT)) for path in (ROOT / "loaders/csrc").glob("*.h")),
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
    extra_link_args=PORTABLE if ENGINE == "portable" else [],
    optional=ENGINE == "auto",
)
WITHOUT_ENGINE = """
{line}
FastIMAE is being built WITHOUT its decode engine: Pillow will decode, several times slower.
To change that, install a C++ compiler and libjpeg-turbo's headers (on Debian:
apt-get install g++ libjpeg-dev), then FastIMAE again. FASTIMAE_ENGINE=require makes this an error.
{line}
"""


class BuildModules(build_py):
    """Copies the modules; files that an older version left in build/ do not get into the wheel."""

    def run(self) -> None:
        """Copy the modules, and remove all other files than the engine, which is built later."""
        super().run()
        copied = {Path(name) for name in self.get_outputs()}
        for left in {*Path(self.build_lib, "fastimae").rglob("*.*")} - copied:
            if left.is_file() and left.suffix != ".so":
                left.unlink()


class BuildEngine(build_ext):
    """Builds a plain shared library, which any Python can load: it uses none of Python's API."""

    def finalize_options(self) -> None:
        """Build a portable engine anew: build/ may have one of other options."""
        super().finalize_options()
        self.force = self.force or ENGINE == "portable"

    def get_ext_filename(self, fullname: str) -> str:
        """Return the path of the library, without the version of this Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Build it, or print why that fails; then none of an earlier build is left, either."""
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError):
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            if ext.optional:
                print(WITHOUT_ENGINE.format(line="*" * 100), file=sys.stderr)
            raise


class Wheel(bdist_wheel):
    """A wheel for any Python 3: of this platform if the engine is inside, else of any."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag, in parts."""
        build = self.get_finalized_command("build_ext")
        self.root_is_pure = not Path(build.get_ext_fullpath(NATIVE.name)).exists()
        return "py3", "none", super().get_tag()[2]


setup(
    packages=sorted(PACKAGES),
    package_dir=BESIDE,
    ext_modules=[] if ENGINE == "skip" else [NATIVE],
    cmdclass={"build_py": BuildModules, "build_ext": BuildEngine, "bdist_wheel": Wheel},
)
