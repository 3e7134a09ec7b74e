"""Datagram format, rounds, recovery. Sans-IO: time and bytes in, bytes and deadlines out."""
