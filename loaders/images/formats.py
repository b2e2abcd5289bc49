"""Image formats by file name and first bytes: the supported ones, and known unsupported ones."""

from __future__ import annotations

import re

_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "jp2", "png", "webp", "avif", "bmp", "gif", "tif", "tiff"}
    | {"ppm", "pgm", "pbm", "pnm"}
)
ARRAY_SUFFIX = ".npy"
"""Arrays of NumPy are images in folders without others: elsewhere they may be anything."""
_SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)
_RAW = "a camera's raw format"
_UNSUPPORTED_SUFFIXES = {
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
_UNSUPPORTED_SIGNATURES = {
    "HEIC": rb"....ftyp(hei[cfmsx]|hev[cmsx]|mif[12]|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "SVG": rb"(\xef\xbb\xbf)?\s*(<svg[\s>:]|<!DOCTYPE\s+svg|(<\?xml|<!--)((?!<html).)*?<svg[\s>:])",
    _RAW: rb"(II\*\0|MM\0\*)....CR|....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|IIU\0",
    "Photoshop": rb"8BPS\0",
    "OpenEXR": rb"v/1\x01",
    "Radiance HDR": rb"#\?(RADIANCE|RGBE)\n",
    "PostScript": rb"%!PS",
}
_UNSUPPORTED = {
    name: re.compile(pattern, re.DOTALL) for name, pattern in _UNSUPPORTED_SIGNATURES.items()
}
_TIFF = re.compile(rb"II\*\0|MM\0\*")
_SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN"}
    | {"System Volume Information"}
)
"""Folders that operating systems create: not classes, though some have copies of images."""
HEAD_BYTES = 1024
"""First bytes of a file that suffice to recognise its format."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is ignored."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_image_name(name: str) -> bool:
    """Return whether this is the name of an image of a supported format that is not hidden."""
    return not name.startswith(".") and _suffix(name) in _SUFFIXES


def is_unsupported_name(name: str) -> bool:
    """Return whether this is the name of an image of an unsupported format that is not hidden."""
    return not name.startswith(".") and _suffix(name) in _UNSUPPORTED_SUFFIXES


def is_array_name(name: str) -> bool:
    """Return whether this is the name of a NumPy array that is not hidden."""
    return not name.startswith(".") and name.endswith(ARRAY_SUFFIX)


def looks_like_image(head: bytes) -> bool:
    """Return whether these first bytes are those of an image of a supported format."""
    return _is_avif(head) or (_SIGNATURE.match(head) is not None and not unsupported_format(head))


def unsupported_format(data: bytes) -> str | None:
    """Name the format if these first bytes are those of an image of an unsupported one."""
    head = bytes(data[:HEAD_BYTES])
    if _is_avif(head):
        return None
    return next((name for name, known in _UNSUPPORTED.items() if known.match(head)), None)


def unsupported_reason(name: str, head: bytes) -> str | None:
    """Say why a file with this name and these first bytes is left out; None if it is not.

    The content decides, as a JPEG may be called .heic. The exception is a camera's raw file, which
    may be a TIFF with a small preview: that alone would be decoded.
    """
    by_content, by_name = unsupported_format(head), _UNSUPPORTED_SUFFIXES.get(_suffix(name))
    is_preview = by_name == _RAW and _TIFF.match(head)
    if by_name and not by_content and (is_preview or not looks_like_image(head)):
        by_content = by_name
    return by_content and unsupported(by_content)


def unsupported(format_name: str) -> str:
    """Make the reason for leaving out an image of an unsupported format."""
    return f"{format_name} is not supported: convert it to JPEG or PNG first"


def _is_avif(head: bytes) -> bool:
    """Tell AVIF from HEIC: the first brand of an AVIF may be HEIC's, so check all of them."""
    return head[4:8] == b"ftyp" and re.search(b"avi[fs]", head[8:64]) is not None


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()
