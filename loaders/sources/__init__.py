"""Where the images are: folders, list files, tar files and published data sets."""
