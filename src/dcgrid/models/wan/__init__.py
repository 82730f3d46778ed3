"""Wan models through diffusers (extra `dcgrid[wan]`): our own forward over its modules.

Nothing is imported here: facts about a model are read without torch or diffusers.
"""
