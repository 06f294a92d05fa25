#!/usr/bin/env python3
"""Checks this bundle: python3 verify.py VKEY-FILE [BUNDLE]

VKEY-FILE is the gateway's verifier key, from a place that whoever made the bundle cannot change. Needs Python 3.9 and, for
the signature, the package `cryptography`. Written from RFC 6962 section 2.1 and C2SP signed-note and tlog-checkpoint;
read it, or write your own: README.md says what a bundle is. Exit code 0: every record is the one that was signed and none is missing.
"""
import base64
import hashlib
import json
import sys
from pathlib import Path


def sha(data):
    return hashlib.sha256(data).digest()


def signed(note, vkey):
    """Origin, size and root of a checkpoint that the key signed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    _, _, key = vkey.strip().split("+", 2)
    typed = base64.b64decode(key)
    text, signatures = note.rsplit("\n\n", 1)
    for line in signatures.strip().split("\n"):
        _, name, blob = line.split(" ")
        blob = base64.b64decode(blob)
        # One key signs under the name of each log's instance: the id is made of name and key.
        if typed[0] == 1 and sha(name.encode() + b"\n" + typed)[:4] == blob[:4]:
            Ed25519PublicKey.from_public_bytes(typed[1:]).verify(blob[4:], (text + "\n").encode())
            origin, size, root = text.split("\n")[:3]
            return origin, int(size), base64.b64decode(root)
    raise ValueError("the checkpoint is not signed by this key")


def root_of(leaves, first, size, hashes):
    """The root of a tree, of consecutive leaves and the hashes of the subtrees around them."""
    leaves, hashes, end = iter(leaves), iter(hashes), first + len(leaves)

    def part(low, high):
        if high <= first or low >= end:
            return next(hashes)
        if high - low == 1:
            return next(leaves)
        middle = low + (1 << ((high - low - 1).bit_length() - 1))
        left = part(low, middle)
        return sha(b"\1" + left + part(middle, high))
    found = part(0, size)
    if next(leaves, None) or next(hashes, None):
        raise ValueError("there are records or hashes too many")
    return found


def check(folder, vkey):
    window = json.loads((folder / "window.json").read_text())
    origin, size, root = signed((folder / "checkpoint").read_text(), vkey)
    records = (folder / "records.jsonl").read_bytes().split(b"\n")
    if records.pop() != b"":
        raise ValueError("the last record is cut")
    first, end = window["first_index"], window["end_index"]
    if len(records) != end - first:
        raise ValueError(f"there are {len(records)} records, not {end - first}")
    hashes = [base64.b64decode(text) for text in window["hashes"]]
    if root_of([sha(b"\0" + record) for record in records], first, size, hashes) != root:
        raise ValueError("the records and hashes do not give the root that was signed")
    # The records before and behind the period show that it begins and ends there.
    times = [json.loads(record)["time"] for record in records]
    print(f"ok: {origin}: leaves {first} to {end - 1} of {size}, {times[0]} to {times[-1]}")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    bundle, wrong = Path(sys.argv[2] if len(sys.argv) == 3 else "."), 0
    manifest = json.loads((bundle / "manifest.json").read_text())
    for file in manifest["files"]:
        if not (bundle / file["name"]).is_file() or hashlib.sha256((bundle / file["name"]).read_bytes()).hexdigest() != file["sha256"]:
            wrong += 1
            print(f"WRONG: {file['name']} is not the file that the manifest names")
    logs = [bundle / log["directory"] for log in manifest["logs"]]
    for folder in logs:
        try:
            check(folder, Path(sys.argv[1]).read_text())
        except Exception as error:
            wrong += 1
            print(f"WRONG: {folder.name}: {error or type(error).__name__}")
    sys.exit(1 if wrong or not logs else 0)


if __name__ == "__main__":
    main()
