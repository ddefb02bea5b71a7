"""Training: the loop, schedules, checkpoints, recipes, several processes."""
