"""Folders of earlier trainers are taken into a run: what is in them, what is missing, and where possible a point to go on from.

Nothing of a foreign file is unpickled, and the source is never changed.
"""
