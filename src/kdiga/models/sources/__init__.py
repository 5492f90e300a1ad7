"""Where models come from: one file a source, each known by the prefix of its names."""
