"""The stages of a run, one file a family: what each is made from and writes, and the function that does it."""
