"""Labelling: what people are asked, how far they are, and the step in which a run waits for them."""
