"""The command line: arguments, messages, progress bars and the commands.

It may import `share` and the layers below it.
"""
