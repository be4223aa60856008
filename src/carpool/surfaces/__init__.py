"""Adapters to other people's clients: SDKs of this process, and whatever speaks HTTP to the sidecar.

Nothing here is loaded by ``import carpool``; the core knows nothing of it.
"""
