"""Meshes of devices and groups of processes."""
