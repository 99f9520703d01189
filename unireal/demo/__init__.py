"""A web page to try a model on, generated from unireal.tasks.TASKS: python -m unireal.demo

A form holds what one task takes, the engine runs it in a thread of its own, results are pictures that carry what made
them. Nothing here knows a task by its name.
"""
