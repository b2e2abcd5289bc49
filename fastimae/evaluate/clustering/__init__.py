"""Clusters of features: k-means, their agreement with labels, and figures of them."""
