"""Teachers: sources of logits and input gradients, live or stored."""

from kdiga.teachers.manifest import Manifest
from kdiga.teachers.signals import CachedTeacher, OnlineTeacher
from kdiga.teachers.store import Store

__all__ = ["CachedTeacher", "Manifest", "OnlineTeacher", "Store"]
