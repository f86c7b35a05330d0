"""The edge: outermost ASGI middleware. What is not on its lists does not exist, and keys come first.

vLLM's own `--api-key` leaves several routes open and answers with bodies that the OpenAI SDK does not know,
so it is not used. vLLM reads what the edge wrote, never what a client sent: no path, header or body that the
two could understand differently comes through.
"""

from hone_server.edge.middleware import GATE, Edge

__all__ = ["GATE", "Edge"]
