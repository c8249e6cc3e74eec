"""Bridges to other libraries. Each module imports its library; importing this package imports none."""
