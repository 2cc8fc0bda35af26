"""Judgements from outside: files of other tools and your own, read into tasks and judgements like ours."""
