"""A mesh as a GLB file: binary glTF 2.0 with positions, normals and vertex colours, and nothing to fetch.

glTF's vertex colours are linear, so sRGB is decoded and kept in 16 bits.
"""

from __future__ import annotations

import json
import struct

import numpy as np

from studio.multiview.mesh import Mesh

_FLOAT, _UNSIGNED_INT, _UNSIGNED_SHORT = 5126, 5125, 5123
_ARRAY, _INDEX = 34962, 34963


def glb(mesh: Mesh) -> bytes:
    """The file's bytes."""
    linear = np.where(mesh.colours <= 0.04045, mesh.colours / 12.92, ((mesh.colours + 0.055) / 1.055) ** 2.4)
    opaque = np.concatenate([linear, np.ones((len(linear), 1))], axis=1)
    positions = mesh.vertices.astype("<f4")
    bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    parts = [
        (positions, _FLOAT, "VEC3", _ARRAY, bounds),
        (mesh.vertex_normals().astype("<f4"), _FLOAT, "VEC3", _ARRAY, {}),
        ((opaque * 65535).round().astype("<u2"), _UNSIGNED_SHORT, "VEC4", _ARRAY, {"normalized": True}),
        (mesh.faces.ravel().astype("<u4"), _UNSIGNED_INT, "SCALAR", _INDEX, {}),
    ]  # fmt: skip
    views, accessors, content = [], [], b""
    for number, (array, component, kind, target, more) in enumerate(parts):
        data = np.ascontiguousarray(array).tobytes()
        views.append({"buffer": 0, "byteOffset": len(content), "byteLength": len(data), "target": target})
        accessors.append({"bufferView": number, "componentType": component, "count": len(array), "type": kind, **more})
        content += data
    described = {
        "asset": {"version": "2.0", "generator": "PeRFlow Studio"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.85}}],
        "meshes": [{"primitives": [{
            "attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "material": 0,
        }]}],
        "buffers": [{"byteLength": len(content)}],
        "bufferViews": views,
        "accessors": accessors,
    }  # fmt: skip
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    content += b"\0" * (-len(content) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(content), b"BIN\0") + content
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
