"""Pictures, and numbers about pictures."""
