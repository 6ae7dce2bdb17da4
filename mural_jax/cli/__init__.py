"""The command line: one verb, one file, with its flags and its deed."""
