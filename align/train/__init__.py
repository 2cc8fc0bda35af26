"""Training: demonstrations and preferences in, a published checkpoint out."""
