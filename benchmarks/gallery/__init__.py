"""The gallery: the commands of docs/gallery.md, and the pictures that they draw."""
