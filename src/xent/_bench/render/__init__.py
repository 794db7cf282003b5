"""Renderers: functions from Measurements to text. None computes what it shows."""
