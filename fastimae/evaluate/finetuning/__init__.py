"""Fine-tuning, for finetune and msem: the training, the classifier, augmented batches."""
