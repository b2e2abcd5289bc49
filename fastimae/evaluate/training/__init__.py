"""Training of any task that has labels: its batches, validation, best checkpoint and resuming."""
