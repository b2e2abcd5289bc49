"""Training and testing with labels: what fine-tuning and probes share."""
