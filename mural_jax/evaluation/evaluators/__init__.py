"""What is scored: one kind of evaluator, one file."""
