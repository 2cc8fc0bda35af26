"""Everything that touches people: tasks, the labelling page, annotators real and simulated, and their labels."""
