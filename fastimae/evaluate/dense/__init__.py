"""Dense tasks: an encoder that gives maps of features, of images of any size."""
