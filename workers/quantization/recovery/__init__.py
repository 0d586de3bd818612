"""Ways back from a bad result, one file each, and the ladder that tries them in order and keeps what helps."""
