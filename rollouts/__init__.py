"""Rollouts: a policy's answers to prompts, from whichever engine there is."""
