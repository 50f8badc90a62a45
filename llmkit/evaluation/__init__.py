"""Evaluate a checkpoint on a task: the data, the answers of the model, and the metrics over both."""
