"""The Multiview tab: an object from six sides, and its mesh."""
