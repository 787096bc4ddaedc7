"""
What this system knows about receiving DICOM instances and importing them, without any I/O.

Nothing here imports a DICOM or AWS library, opens a file or socket, reads a clock or writes a log.
"""
