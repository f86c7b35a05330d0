"""Requests to models, handed on to the server that has them."""
