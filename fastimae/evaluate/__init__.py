"""fastimae-eval: what a model has learned, in pictures and in numbers."""
