"""What a model has learned: pictures now, probes and metrics to come."""
