"""Models of a crowd: from what people said to what is true, and how far each of them can be believed."""
