"""Sweeps: settings searched by Optuna, measured on prompts of their own."""
