"""The stages' names: each is a folder of a run's rounds. Other files name a stage by these alone."""

PROMPTS, DEMONSTRATIONS = "prompts", "demonstrations"
ROLLOUTS = "rollouts"
TASKS, LABELLING, SNAPSHOT, LABELS = "tasks", "labelling", "snapshot", "preferences"
REWARD, REWARD_CHECK = "reward", "reward_check"
POLICY = "policy"
EVALUATION = "evaluation"
BLIND, BLIND_LABELLING, BLIND_SNAPSHOT, BLIND_RESULT = "blind", "blind_labelling", "blind_snapshot", "blind_result"
