"""Models as files for other programs, and measurements of these files: size, speed, accuracy, robustness."""

from kdiga.export.formats import Format, available_formats, formats_by_name

__all__ = ["Format", "available_formats", "formats_by_name"]
