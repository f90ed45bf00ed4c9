"""The geometry and the measures of pictures enlarged in tiles: where tiles lie, how they overlap, whether seams show.

Numpy and Pillow alone: it knows no network, no torch and no request, so the engine that draws, the services that
estimate and the page that shows all count and measure alike.
"""
