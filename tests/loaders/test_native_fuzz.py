"""The compiled engine under sanitizers, briefly: `make -C tests/fuzz` runs the same for hours."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUZZ, BUILD = ROOT / "tests/fuzz", ROOT / "build/fuzz"


def can_compile(sanitizer: str, tmp_path: Path) -> bool:
    source = tmp_path / "try.cc"
    source.write_text("#include <cstdio>\n#include <jpeglib.h>\nint main() {}\n")
    command = ["g++", f"-fsanitize={sanitizer}", source, "-ljpeg", "-o", tmp_path / "try"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.timeout(900)  # compiling takes half a minute on two idle cores
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("make")), reason="no g++ and make")
@pytest.mark.parametrize(
    ("target", "sanitizer", "seconds"),
    [("fuzz", "address,undefined", 10), ("threads", "thread", 5)],
)
def test_nothing_is_found(target, sanitizer, seconds, tmp_path):
    if not can_compile(sanitizer, tmp_path):
        pytest.skip(f"g++ cannot compile with libjpeg and -fsanitize={sanitizer}")
    settings = [f"SECONDS={seconds}", f"BUILD={BUILD}", "CXX=g++", "INPUT="]
    command = ["make", "-C", FUZZ, f"-j{os.cpu_count()}", target, *settings]
    # A `make test` around this has flags and a job server of its own.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "nothing found" in done.stdout
