"""One object from several sides: the picture given, the views drawn, and the mesh made of them. No torch, no page.

Coordinates: the front camera's frame, x to the right, y up, z towards the viewer; the picture's square is [-1, 1]
square, and cameras are orthographic. Normals are unit vectors in that frame for every view, and colours of a normal map
are (normal + 1) / 2 on white.
"""
