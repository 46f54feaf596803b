"""The node's pages, JSON routes, health and metrics: a Starlette application, bound to localhost by default."""

from dicom_node.web.app import create_app

__all__ = ["create_app"]
