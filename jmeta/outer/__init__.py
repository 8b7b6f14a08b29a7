"""The outer loop: learner, evaluation, training with checkpoints, the mesh."""
