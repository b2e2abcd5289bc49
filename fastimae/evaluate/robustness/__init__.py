"""Classifiers on other images than they were trained for: ImageNet's variants, cue conflicts."""
