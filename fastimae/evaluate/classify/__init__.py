"""Accuracy: probes of frozen features, and fine-tuning."""
