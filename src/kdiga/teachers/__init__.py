"""Teachers: sources of logits and input gradients."""

from kdiga.teachers.online import OnlineTeacher

__all__ = ["OnlineTeacher"]
