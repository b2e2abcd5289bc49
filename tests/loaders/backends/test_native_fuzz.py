"""A short fuzzing run of the compiled engine: `make -C tests/fuzz` runs the same for hours."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FUZZ, BUILD = ROOT / "tests/fuzz", ROOT / "build/fuzz-of-tests"


def succeeds(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def can_run(sanitizer: str, tmp_path: Path) -> bool:
    """Return whether a program with it compiles and starts: not every system allows that."""
    source, program = tmp_path / "try.cc", tmp_path / "try"
    source.write_text("#include <cstdio>\n#include <jpeglib.h>\nint main() {}\n")
    if not succeeds("g++", f"-fsanitize={sanitizer}", source, "-ljpeg", "-o", program):
        return False
    fixed_layout = shutil.which("setarch") and succeeds("setarch", "-R", "true")
    return succeeds(*(["setarch", "-R"] if fixed_layout else []), program)


@pytest.mark.timeout(900)  # compiling takes half a minute on two idle cores
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no g++ and make")
@pytest.mark.parametrize(
    ("target", "sanitizer", "seconds"),
    [("fuzz", "address,undefined", 4), ("threads", "thread", 2)],
)
def test_nothing_is_found(target, sanitizer, seconds, tmp_path):
    if not can_run(sanitizer, tmp_path):
        pytest.skip(f"a program with libjpeg and -fsanitize={sanitizer} does not run here")
    # Separate folders, as make would read what another make has half written. And not in
    # `build/fuzz`, where these programs would pass for others of the same names.
    settings = [f"SECONDS={seconds}", f"BUILD={BUILD / target}", "CXX=g++", "INPUT="]
    command = ["make", "-C", FUZZ, f"-j{os.cpu_count()}", target, *settings]
    # A `make test` around this one would pass on its flags and its job server.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "nothing found" in done.stdout
