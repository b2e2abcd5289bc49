"""Conversion of images in any layout to a `.beton` file: `fastimae-convert`."""
