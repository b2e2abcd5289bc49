"""What attention, weights and tsne compute and draw."""
