"""The `.beton` file format: its layout, a reader and a writer."""
