"""The Upscale tab: a picture enlarged tile by tile."""
