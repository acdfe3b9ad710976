"""Training that resumes: checkpoints, steps, schedules, run folders, crops."""
