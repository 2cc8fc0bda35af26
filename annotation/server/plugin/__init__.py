"""The folder that goes on the path of Argilla's own interpreter. Nothing in it imports anything of ours."""
