"""Reports about data: contents, histograms, leaks, speed."""
