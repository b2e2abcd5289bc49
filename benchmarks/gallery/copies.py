"""Small copies of pictures for the documents; each holds the command that made it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, PngImagePlugin

WIDTH, COLOURS = 900, 128
"""Pixels at most, and colours of a palette: some tens of kilobytes for each picture."""
WINDOW = (1100, 1400)
"""Pixels of a page that are shown, from its top."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def copy(source: Path, target: Path, command: str) -> None:
    """Copy a picture, or photograph a page, small enough to be committed."""
    if source.suffix == ".html":
        with tempfile.TemporaryDirectory() as folder:
            save(photographed(source, Path(folder) / "page.png"), target, command)
    else:
        save(Image.open(source), target, command)


def save(picture: Image.Image, target: Path, command: str) -> None:
    """Write a picture as a PNG of few colours, at most WIDTH pixels wide."""
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("RGB")
    if picture.width > WIDTH:
        height = round(picture.height * WIDTH / picture.width)
        picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    few = picture.quantize(COLOURS, dither=Image.Dither.NONE)
    target.parent.mkdir(parents=True, exist_ok=True)
    few.save(target, optimize=True, pnginfo=note(command))


def note(command: str) -> PngImagePlugin.PngInfo:
    """Return a PNG's text with the command that made it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Command", command)
    return info


def photographed(page: Path, target: Path) -> Image.Image:
    """Open a page in a browser without a window, and take a picture of its upper part."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"{page}: none of {', '.join(BROWSERS)} is installed")
    width, height = WINDOW
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--hide-scrollbars"),
            *(f"--window-size={width},{height}", f"--screenshot={target}", page.as_uri()),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return Image.open(target)
