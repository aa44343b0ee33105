"""OpenAI's Responses API: items in, items and their events out, and a store to go on from.

types.py     what a client may ask
reading.py   input items -> harmony messages
tools.py     offered tools -> what the model may call
prepare.py   all of that -> a request to the backend
items.py     the items of an output, with the events of each
output.py    the events of a reply -> items
answer.py    one response while it is made, in front or in the background
store.py     responses that are kept
routes.py    HTTP
"""

from .routes import PATH, Responses, router
from .store import ResponseStore

__all__ = ["PATH", "ResponseStore", "Responses", "router"]
