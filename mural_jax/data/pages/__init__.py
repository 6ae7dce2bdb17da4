"""Pages and tables about data: contents, batches, leaks from test sets, speed."""
