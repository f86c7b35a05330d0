"""Telling others of a job's end: whom, what, where to it may go, and until when it is tried."""
