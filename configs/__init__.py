"""One file for each system; see `mural train --help`."""
