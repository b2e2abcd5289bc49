"""The image field of a `.beton` file whose pixels are not 3 x uint8: its channels and their type.

ffcv's image field has three channels of 8 bits. Other pixels are in a field of ffcv's type 255,
"custom": the ffcv library refuses to open such a file unless its user gives it a class for the
field, so it never misreads one. Its metadata are those of the image field, all samples are raw:
[height, width, channels], little-endian. Its descriptor's arguments begin with the record and the
pointer to the names (record.py, names.py), as in an image field; then, little-endian:

    32  4 bytes  "FBD1"
    36  uint16   channels
    38  uint16   bytes of a value: 1 (uint8) or 2 (uint16)

The record's checksum covers them.
"""

from __future__ import annotations

import numpy as np

from fastimae.loaders.beton.layout import BANDS_FIELD, DESCRIPTOR, HEADER, IMAGE_FIELD
from fastimae.loaders.images.pixel_form import DTYPES, MAX_CHANNELS, RGB8, PixelForm

_MAGIC = b"FBD1"
_FORM = np.dtype([("magic", "S4"), ("channels", "<u2"), ("value_bytes", "<u2")])
_AT = 32
_BY_BYTES = {dtype.itemsize: dtype for dtype in DTYPES}
_TYPE_AT = HEADER.itemsize + DESCRIPTOR.fields["type_id"][1]
_ARGUMENTS_AT = HEADER.itemsize + DESCRIPTOR.fields["arguments"][1]


def field_type(form: PixelForm) -> int:
    """Return the type of the field that holds pixels of this form."""
    return IMAGE_FIELD if form == RGB8 else BANDS_FIELD


def form_arguments(form: PixelForm) -> bytes:
    """Return the arguments of the field for this form; empty for an ordinary image field."""
    if form == RGB8:
        return b""
    described = np.array((_MAGIC, form.channels, form.dtype.itemsize), _FORM).tobytes()
    return bytes(_AT) + described


def form_in(type_id: int, arguments: bytes) -> PixelForm | None:
    """Return the form of an image field's pixels; None if it is no image field, or foreign."""
    if type_id == IMAGE_FIELD:
        return RGB8
    if type_id != BANDS_FIELD:
        return None
    magic, channels, value_bytes = np.frombuffer(arguments, _FORM, 1, _AT)[0].tolist()
    known = magic == _MAGIC and 0 < channels <= MAX_CHANNELS and value_bytes in _BY_BYTES
    return PixelForm(channels, _BY_BYTES[value_bytes]) if known else None


def starts_with_images(view: memoryview) -> bool:
    """Return whether field 0 of a file is an image field, which has room for record and names."""
    arguments = bytes(view[_ARGUMENTS_AT : _ARGUMENTS_AT + _AT + _FORM.itemsize])
    return form_in(view[_TYPE_AT], arguments) is not None
