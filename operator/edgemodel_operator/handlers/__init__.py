"""Kopf handlers: thin. They note what changed and wake whom it concerns."""
