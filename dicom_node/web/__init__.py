"""The node's pages, JSON routes, health and metrics: a Starlette application, bound to localhost by default."""
