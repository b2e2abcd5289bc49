"""What cka, attention, weights and tsne compute and draw."""
