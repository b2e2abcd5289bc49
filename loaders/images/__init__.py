"""A single image: its file format, its pixels and its crop."""
