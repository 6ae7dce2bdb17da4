"""Memory and speed of a training step: predicted for devices elsewhere, measured on local ones."""
