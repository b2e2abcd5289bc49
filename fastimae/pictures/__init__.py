"""Pictures of what a model sees and reconstructs, and how close they are to the truth."""
