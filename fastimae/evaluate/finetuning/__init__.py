"""The parts of fastimae-eval finetune: options, classifier, augmented batches."""
