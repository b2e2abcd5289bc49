"""Files of features: what they hold, and how they are written without keeping them in memory."""
