"""Writes GGUF files (version 3), with the standard library alone.

Metadata first, then the table of tensors, then their data in the same order: the caller declares
everything and then gives each tensor's bytes, in pieces as small as it likes.
"""

import struct

ALIGNMENT = 32
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def pack_string(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def pack_value(kind, value):
    if kind == STRING:
        return pack_string(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


class Writer:
    def __init__(self, path):
        self.path = path
        self.entries = []
        self.tensors = []  # (name, type id, dims with the row length first, bytes)

    def add(self, key, kind, value):
        self.entries.append(pack_string(key) + struct.pack("<I", kind) + pack_value(kind, value))

    def add_array(self, key, kind, values):
        head = pack_string(key) + struct.pack("<IIQ", ARRAY, kind, len(values))
        self.entries.append(head + b"".join(pack_value(kind, value) for value in values))

    def add_tensor(self, name, type_id, dims, n_bytes):
        self.tensors.append((name, type_id, dims, n_bytes))

    def header(self):
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.entries))]
        parts += self.entries
        offset = 0
        for name, type_id, dims, n_bytes in self.tensors:
            parts.append(pack_string(name))
            parts.append(struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset))
            offset += n_bytes + -n_bytes % ALIGNMENT
        data = b"".join(parts)
        return data + bytes(-len(data) % ALIGNMENT)

    def write(self, read_tensor):
        """Writes the file; read_tensor(name) yields a tensor's bytes in pieces."""
        try:
            with open(self.path, "wb") as file:
                self.write_parts(file, read_tensor)
        except OSError as error:
            error.filename = self.path  # writing does not name it
            raise

    def write_parts(self, file, read_tensor):
        file.write(self.header())
        for name, _, _, n_bytes in self.tensors:
            written = sum(file.write(piece) for piece in read_tensor(name))
            if written != n_bytes:
                raise ValueError(f"{name}: {written} bytes instead of {n_bytes}")
            file.write(bytes(-n_bytes % ALIGNMENT))
