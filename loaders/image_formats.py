"""Which files are images, by name and by first bytes, and which we know but cannot read."""

from __future__ import annotations

import re

_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "jp2", "png", "webp", "avif", "bmp", "gif", "tif", "tiff"}
    | {"ppm", "pgm", "pbm", "pnm"}
)
_SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)
_RAW = "a camera's raw format"
_FOREIGN_SUFFIXES = {
    **dict.fromkeys(("heic", "heif", "hif"), "HEIC"),
    **dict.fromkeys(("svg", "svgz"), "SVG"),
    **dict.fromkeys(("cr2", "cr3", "nef", "arw", "dng", "raf", "orf", "rw2", "raw"), _RAW),
    **dict.fromkeys(("ps", "eps"), "PostScript"),
    "exr": "OpenEXR",
    "hdr": "Radiance HDR",
    "jxl": "JPEG XL",
    "psd": "Photoshop",
    "tga": "Targa",
}
_FOREIGN_SIGNATURES = {
    "HEIC": rb"....ftyp(hei[cfmsx]|hev[cmsx]|mif[12]|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "SVG": rb"(\xef\xbb\xbf)?\s*(<svg[\s>:]|<!DOCTYPE\s+svg|(<\?xml|<!--)((?!<html).)*?<svg[\s>:])",
    _RAW: rb"(II\*\0|MM\0\*)....CR|....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|IIU\0",
    "Photoshop": rb"8BPS\0",
    "OpenEXR": rb"v/1\x01",
    "Radiance HDR": rb"#\?(RADIANCE|RGBE)\n",
    "PostScript": rb"%!PS",
}
_FOREIGN = {name: re.compile(pattern, re.DOTALL) for name, pattern in _FOREIGN_SIGNATURES.items()}
_TIFF = re.compile(rb"II\*\0|MM\0\*")
_SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN"}
    | {"System Volume Information"}
)
"""What systems put among a user's files: no classes, though some hold copies of images."""
HEAD_BYTES = 1024
"""So many of a file's first bytes tell its format."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_image_name(name: str) -> bool:
    """Whether a file is called like an image that we read; hidden files are not."""
    return not name.startswith(".") and _suffix(name) in _SUFFIXES


def is_foreign_name(name: str) -> bool:
    """Whether a file is called like an image of a format that we do not read."""
    return not name.startswith(".") and _suffix(name) in _FOREIGN_SUFFIXES


def looks_like_image(head: bytes) -> bool:
    """Whether a file that starts so is an image that we read."""
    return _is_avif(head) or (_SIGNATURE.match(head) is not None and not foreign_format(head))


def foreign_format(data: bytes) -> str | None:
    """The name of the format, if a file that starts so is an image that we do not read."""
    head = bytes(data[:HEAD_BYTES])
    if _is_avif(head):
        return None
    return next((name for name, known in _FOREIGN.items() if known.match(head)), None)


def foreign_reason(name: str, head: bytes) -> str | None:
    """Why a file of this name that starts so is left out, if it is an image that we do not read.

    The content decides, as a JPEG may be called .heic; but a camera's raw file may be a TIFF with
    a small preview, which alone would be read.
    """
    found, promised = foreign_format(head), _FOREIGN_SUFFIXES.get(_suffix(name))
    is_preview = promised == _RAW and _TIFF.match(head)
    if promised and not found and (is_preview or not looks_like_image(head)):
        found = promised
    return found and unread(found)


def unread(name: str) -> str:
    """The reason to give for an image of a format that we do not read."""
    return f"{name} is not read: convert it to JPEG or PNG first"


def _is_avif(head: bytes) -> bool:
    """The first name of its family may be HEIC's, too, and AVIF's among those that follow."""
    return head[4:8] == b"ftyp" and re.search(b"avi[fs]", head[8:64]) is not None


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()
