"""Judgements from outside: files of other tools and of one's own, read into tasks and judgements like ours."""
