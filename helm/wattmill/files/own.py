"""Gives a folder and everything in it to one user. Arguments: the folder, the user's number."""

import os
import sys

top, user = sys.argv[1], int(sys.argv[2])
for folder, _, files in os.walk(top):
    for path in [folder, *(os.path.join(folder, name) for name in files)]:
        os.chown(path, user, user, follow_symlinks=False)
