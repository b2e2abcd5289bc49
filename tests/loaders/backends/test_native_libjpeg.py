"""The engine on the libjpeg-turbo of Pillow's wheel, which is newer than Debian's."""

import os
import subprocess
import sys
from pathlib import Path

import PIL
import pytest
from PIL import features

from fastimae.loaders import native_library

BUNDLED = sorted(Path(PIL.__file__).parent.with_name("pillow.libs").glob("libjpeg-*.so.62.*"))


@pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
@pytest.mark.skipif(not BUNDLED, reason="this Pillow brings no libjpeg-turbo of its own")
def test_the_decode_tests_pass_with_libjpeg_turbo_3():
    assert int(features.version_feature("libjpeg_turbo").split(".")[0]) >= 3
    tests = Path(__file__).with_name("test_native_decode.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tests), "-o", "addopts="
         "--import-mode=importlib -ra"],
        env={**os.environ, "LD_PRELOAD": str(BUNDLED[0])},
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
