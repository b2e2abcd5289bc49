"""With Pillow older than 13, tests compare with its resize in the pass order of 13.

Pillow 13 begins with the vertical pass where that saves work; as it rounds between the passes, that
changes pixels. Ours are those of 13 with every Pillow.
"""

from PIL import Image, __version__

IS_OLDER = int(__version__.split(".")[0]) < 13
NOTE = f"pixels were compared with Pillow {__version__}, resizing in the pass order of 13"

plain = Image.Image.resize


def resize(image, size, resample=None, *others, **options):
    rows, columns = image.height - size[1], image.width - size[0]
    if resample == Image.Resampling.BICUBIC and rows > max(0, 2 * columns):
        image = plain(image, (image.width, size[1]), resample)
    return plain(image, size, resample, *others, **options)


if IS_OLDER:
    Image.Image.resize = resize
