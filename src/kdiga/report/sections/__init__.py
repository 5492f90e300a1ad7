"""The sections of a page, each from a chapter's records: what it says, shows and lists. One section a file."""
