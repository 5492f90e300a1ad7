"""Models as files that other programs run, and what those files are worth: size, speed, accuracy, robustness."""

from kdiga.export.formats import Format, available_formats, formats_by_name

__all__ = ["Format", "available_formats", "formats_by_name"]
