"""The layers that are compared, a module per framework.

Each has `steps(case, data)`: by competitor's name a function without arguments that does one step and returns what it
computed, finished, as a list of NumPy arrays when called with `read=True`.
"""
