"""Turns videos, real or drawn, into UniReal's training samples. `python -m data_builders list` names the builders."""
